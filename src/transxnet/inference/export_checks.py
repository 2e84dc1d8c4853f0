"""Whether an exported file computes what the network computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from transxnet.dense.detection.mask_rcnn import MaskRCNN
from transxnet.dense.detection.retinanet import RetinaNet
from transxnet.inference.description import PARTS, Precision
from transxnet.inference.runtimes import Runtime
from transxnet.inference.tracing import head_of, outputs_of

BOUNDS: dict[Precision, float] = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2, "int8": 0.2}
"""Largest deviation that passes, relative to the output's largest value."""

SIZES = ((3, 33, 47), (1, 250, 199), (5, 32, 224), (2, 97, 128))
"""Batch, height and width of the checks, beside one image of the network's own size; none was traced."""

REGIONS = (1, 3, 50, 7)
"""Numbers of regions in the checks of a second stage's heads; none was traced."""

JUDGED = 64
"""Images on which best classes are compared."""

REGIONS_JUDGED = 100
"""The same of Mask R-CNN's regions of each image."""


@dataclass(frozen=True)
class Check:
    """One comparison with the network.

    Attributes:
        batch: Images, or regions.
        height: In pixels, or of the regions.
        width: As the height.
        deviation: Largest deviation of an output, relative to its largest value; not a number if the
            outputs' shapes differ or one is not finite.
        bound: What it may be.
        error: What the runtime said, if it failed.
        part: Word of the file beside the first that was compared; empty for the first.
    """

    batch: int
    height: int
    width: int
    deviation: float
    bound: float
    error: str = ""
    part: str = ""

    @property
    def passed(self) -> bool:
        """Whether the deviation is within its bound."""
        return self.deviation <= self.bound


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
    for part, file in runtime.parts.items():
        checks += [_check(head_of(model, part), file, regions) for regions in _example_regions(model, part)]
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
        answers = runtime.run(images.numpy())
    except Exception as error:  # noqa: BLE001 (every runtime has its own)
        return Check(*size, float("nan"), bound, " ".join(str(error).split())[:200], part)
    return Check(*size, largest_deviation(wanted, answers), bound, part=part)


def _example_regions(model: Any, part: str) -> Iterator[Tensor]:
    """Random pooled regions (R, C, side, side), the same in every run."""
    generator, side = torch.Generator().manual_seed(0), PARTS[part].side
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
    """The share of images to which file and network give the same best class.

    It is that of a map's places or of Mask R-CNN's regions where the network judges those.

    Args:
        model: The network.
        runtime: Its file.
        images: (1, C, H, W) each.
    """
    same = []
    for image in images:
        with torch.inference_mode():
            if isinstance(model, MaskRCNN):
                wanted, answers = _scores_of_regions(model, runtime, image)
            else:
                wanted, answers = outputs_of(model, image)[0].numpy(), runtime.run(image.numpy())[0]
        axis = 2 if isinstance(model, RetinaNet) else 1
        same.append((wanted.argmax(axis) == answers.argmax(axis)).mean())
    return float(np.mean(same))


def _scores_of_regions(model: Any, runtime: Runtime, image: Tensor) -> tuple[Any, Any]:
    """The network's scores (R, classes + 1) of the best regions that it proposes, and the files' of the same."""
    maps = model.backbone(image)
    (proposals,), _ = model.rpn(ImageList(image, [(image.shape[2], image.shape[3])]), maps)
    regions = [proposals[:REGIONS_JUDGED]]
    theirs = dict(zip(maps, map(torch.from_numpy, runtime.run(image.numpy())), strict=False))
    wanted, answers = (model.roi_heads.box_roi_pool(which, regions) for which in (maps, theirs))
    return head_of(model, "boxes")(wanted)[0].numpy(), runtime.parts["boxes"].run(answers.numpy())[0]
