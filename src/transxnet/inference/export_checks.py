"""Whether an exported file computes what the network computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.dense.protocol import DenseNetwork
from transxnet.inference.adapters import NamedOutputs
from transxnet.inference.description import Precision
from transxnet.inference.runtimes import Runtime
from transxnet.inference.tracing import outputs_of

BOUNDS: dict[Precision, float] = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2, "int8": 0.2}
"""Largest deviation that passes, relative to the output's largest value."""

SIZES = ((3, 33, 47), (1, 250, 199), (5, 32, 224), (2, 97, 128))
"""Batch, height and width of the checks, beside one image of the network's own size; none was traced."""

REGIONS = (1, 3, 50, 7)
"""Numbers of regions in the checks of the parts in files of their own; none was traced."""

COMPARED = 64
"""Images on which best classes are compared."""


@dataclass(frozen=True)
class Check:
    """One comparison with the network.

    Attributes:
        batch: Images, or regions.
        height: In pixels, or of the regions.
        width: As the height.
        deviation: Largest deviation of an output, relative to its largest value; not a number if the
            outputs' shapes differ or one is not finite.
        bound: Largest deviation that passes.
        error: The runtime's error message, if it failed.
        part: Name of the part whose file was compared; empty for the first file.
        output: Name of the output that deviates most; empty if the runtime failed.
    """

    batch: int
    height: int
    width: int
    deviation: float
    bound: float
    error: str = ""
    part: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether the deviation is within its bound."""
        return self.deviation <= self.bound

    @property
    def line(self) -> str:
        """The result in a few words: the runtime's error message, or which output deviates by how much."""
        of = f"{self.part}: " if self.part else ""
        if self.error:
            return f"{of}{self.error}"
        return f"{of}{self.output} deviates by {self.deviation:.1e} of its largest value; up to {self.bound:.0e} passes"


def worst(checks: Sequence[Check]) -> Check:
    """The comparison with the largest deviation; one in which the runtime failed, if any did."""
    return max(checks, key=lambda one: math.inf if math.isnan(one.deviation) else one.deviation)


@contextmanager
def _strict_float32() -> Iterator[None]:
    """Compute float32 as such on the processor.

    ``torch.set_float32_matmul_precision("medium")`` rounds factors to bfloat16 on processors that multiply it, and
    the network would differ from every correct file.
    """
    library: Any = torch.backends.mkldnn
    settings = library.matmul, library.conv
    before = [one.fp32_precision for one in settings]
    try:
        for one in settings:
            one.fp32_precision = "ieee"
        yield
    finally:
        for one, precision in zip(settings, before, strict=True):
            one.fp32_precision = precision


@_strict_float32()
def check(model: nn.Module, runtime: Runtime, samples: Sequence[Tensor] = ()) -> list[Check]:
    """Compare an exported file with its network at five sizes that were not traced, and those beside it.

    Args:
        model: The network, in evaluation mode, on the processor.
        runtime: The file.
        samples: Images (1, C, H, W), which are resized to the sizes; noise if there are none. Eight bits
            reach as far as the images did that they were calibrated with, and noise goes beyond.
    """
    checks = []
    for size in sizes_for(model):
        images = _resized(samples, size) if samples else example_images(model, size)
        checks.append(_check(model, runtime, images))
    for name, file in runtime.parts.items():
        assert isinstance(model, DenseNetwork)
        part = model.export_form.part(model, name)
        checks += [_check(part, file, regions) for regions in _example_regions(model, name)]
    return checks


def sizes_for(model: nn.Module) -> list[tuple[int, int, int]]:
    """Batch, height and width of each check."""
    config: Any = getattr(model, "config", None)
    own = getattr(config, "img_size", (224, 224))
    first = (1, *own)
    return [first, *SIZES]


def _check(model: nn.Module, runtime: Runtime, images: Tensor) -> Check:
    bound, part = BOUNDS[runtime.description.precision], runtime.description.part
    size = len(images), images.shape[2], images.shape[3]
    with torch.inference_mode():
        wanted = outputs_of(model, images)
    try:
        outputs = runtime.run(images.numpy())
    except Exception as error:  # noqa: BLE001 (every runtime has its own)
        return Check(*size, float("nan"), bound, " ".join(str(error).split())[:200], part)
    deviations = map(_deviation, wanted, outputs)
    checks = [
        Check(*size, deviation, bound, part=part, output=name)
        for name, deviation in zip(runtime.description.outputs, deviations, strict=True)
    ]
    return worst(checks)


def _example_regions(model: DenseNetwork, part: str) -> Iterator[Tensor]:
    """Random pooled regions (R, C, side, side), the same in every run."""
    generator, side = torch.Generator().manual_seed(0), model.export_form.parts[part].side
    for count in REGIONS:
        yield torch.randn(count, model.backbone.out_channels, side, side, generator=generator)


def _resized(samples: Sequence[Tensor], size: tuple[int, int, int]) -> Tensor:
    chosen = [samples[index % len(samples)] for index in range(size[0])]
    return torch.cat([F.interpolate(image, size[1:], mode="bilinear", antialias=True) for image in chosen])


def example_images(model: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Random images (batch, C, height, width), the same in every run."""
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size[0], channels, *size[1:], generator=generator)


def _deviation(wanted: Tensor, output: Any) -> float:
    """The largest deviation relative to the largest value; not a number where shapes differ or one is not finite."""
    reference = wanted.numpy()
    if reference.shape != output.shape:
        return math.nan
    scale = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    deviation = float(np.abs(reference - output).max()) / scale
    return deviation if math.isfinite(deviation) else math.nan


def random_images(model: nn.Module) -> Iterator[Tensor]:
    """Images of noise, of the network's own size, where there are no others."""
    _, height, width = sizes_for(model)[0]
    yield from example_images(model, (COMPARED, height, width)).split(1)


def agreement(model: nn.Module, runtime: Runtime, images: Iterable[Tensor]) -> float:
    """The share of images for which file and network have the same best class.

    Dense networks compare the best classes of pixels, anchors or regions.

    Args:
        model: The network.
        runtime: Its file.
        images: (1, C, H, W) each.
    """
    same = []
    files = NamedOutputs(runtime)
    for image in images:
        with torch.inference_mode():
            if isinstance(model, DenseNetwork):
                best, best_of_file = model.export_form.best_classes(model, files, image)
            else:
                best, best_of_file = outputs_of(model, image)[0].argmax(1), files(image)["scores"].argmax(1)
        same.append(float((best == best_of_file).float().mean()))
    return float(np.mean(same))
