"""Whether an exported file computes what the network computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.deploy.description import Precision
from transxnet.deploy.runtimes import Runtime
from transxnet.deploy.tracing import outputs_of

BOUNDS: dict[Precision, float] = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2, "int8": 0.2}
"""Largest deviation that passes, relative to the output's largest value."""

SIZES = ((3, 33, 47), (1, 250, 199), (5, 32, 224), (2, 97, 128))
"""Batch, height and width of the checks, beside one image of the network's own size; none was traced."""


JUDGED = 64
"""Images on which best classes are compared."""


@dataclass(frozen=True)
class Check:
    """One comparison with the network.

    Attributes:
        batch: Images.
        height: In pixels.
        width: In pixels.
        deviation: Largest deviation of an output, relative to its largest value; not a number if the
            outputs' shapes differ or one is not finite.
        bound: What it may be.
        error: What the runtime said, if it failed.
    """

    batch: int
    height: int
    width: int
    deviation: float
    bound: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the deviation is within its bound."""
        return self.deviation <= self.bound


def check(model: nn.Module, runtime: Runtime, samples: Sequence[Tensor] = ()) -> list[Check]:
    """Compare an exported file with its network at five sizes that were not traced.

    Args:
        model: The network, in evaluation mode, on the processor.
        runtime: The file.
        samples: Images (1, C, H, W), which are resized to the sizes; noise if there are none. Eight bits
            reach as far as the images did that they were calibrated with, and noise goes beyond.
    """
    return [_check(model, runtime, size, samples) for size in sizes_for(model)]


def sizes_for(model: nn.Module) -> list[tuple[int, int, int]]:
    """Batch, height and width of each check."""
    config: Any = getattr(model, "config", None)
    own = getattr(config, "img_size", (224, 224))
    first = (1, *own)
    return [first, *SIZES]


def _check(model: nn.Module, runtime: Runtime, size: tuple[int, int, int], samples: Sequence[Tensor]) -> Check:
    bound = BOUNDS[runtime.description.precision]
    images = _resized(samples, size) if samples else example_images(model, size)
    with torch.inference_mode():
        wanted = outputs_of(model, images)
    try:
        answers = runtime.run(images.numpy())
    except Exception as error:  # noqa: BLE001 (every runtime has its own)
        return Check(*size, float("nan"), bound, " ".join(str(error).split())[:200])
    return Check(*size, largest_deviation(wanted, answers), bound)


def _resized(samples: Sequence[Tensor], size: tuple[int, int, int]) -> Tensor:
    chosen = [samples[index % len(samples)] for index in range(size[0])]
    return torch.cat([F.interpolate(image, size[1:], mode="bilinear", antialias=True) for image in chosen])


def example_images(model: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Random images (batch, C, height, width), the same in every run."""
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size[0], channels, *size[1:], generator=generator)


def largest_deviation(wanted: tuple[Tensor, ...], answers: list[Any]) -> float:
    """The largest deviation of an output relative to its largest value; not a number where shapes differ."""
    deviations = []
    for one, other in zip(wanted, answers, strict=True):
        reference = one.numpy()
        if reference.shape != other.shape:
            return float("nan")
        scale = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
        deviations.append(float(np.abs(reference - other).max()) / scale)
    return max(deviations) if all(np.isfinite(deviations)) else float("nan")


def random_images(model: nn.Module) -> Iterator[Tensor]:
    """Images of noise, of the network's own size, where there are no others."""
    _, height, width = sizes_for(model)[0]
    yield from example_images(model, (JUDGED, height, width)).split(1)


def agreement(model: nn.Module, runtime: Runtime, images: Iterable[Tensor]) -> float:
    """The share of images, or of a map's places, to which file and network give the same best class.

    Args:
        model: The network.
        runtime: Its file.
        images: (1, C, H, W) each.
    """
    same = []
    for image in images:
        with torch.inference_mode():
            wanted = outputs_of(model, image)[0].numpy()
        axis = 2 if runtime.description.task == "detection" else 1
        same.append((wanted.argmax(axis) == runtime.run(image.numpy())[0].argmax(axis)).mean())
    return float(np.mean(same))
