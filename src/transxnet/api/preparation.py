"""Images made ready for a network apart from it: in other processes, before a batch is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.images.pixel_values import bands_fault
from transxnet.data.images.reading import BadImageError
from transxnet.data.loader import Transform
from transxnet.data.transforms import BandTransform, evaluation_transform
from transxnet.dense.anchors import SIZE_DIVISOR
from transxnet.dense.head_description import HeadDescription


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the network.

    Attributes:
        name: The image's name.
        pixels: (C, H, W): normalised for a classifier, uint8 for a detector, normalised for a segmenter.
        size: Width and height of the image in pixels, in the camera's orientation.
        group: Images of one group can share a batch, with the results that each has alone.
    """

    name: str
    pixels: Tensor = field(repr=False)
    size: tuple[int, int]
    group: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickled with its values: PyTorch would share memory, which a process that is lost cannot do."""
        return _prepared, (self.name, self.pixels.numpy(), self.size, self.group)


def _prepared(name: str, pixels: npt.NDArray[Any], size: tuple[int, int], group: tuple[int, ...]) -> Prepared:
    return Prepared(name, torch.from_numpy(pixels), size, group)


class Preparation:
    """Makes a predictor's images ready for its network; it can be pickled, and holds no network.

    Args:
        pretrained_cfg: Preprocessing of a classifier; None for other networks.
        channels: Number of bands of a classifier's images.
        head: Head of a detector or segmenter.
    """

    def __init__(
        self, pretrained_cfg: Mapping[str, Any] | None, channels: int = 3, head: HeadDescription | None = None
    ) -> None:
        self.channels = channels
        self.head = head
        self.pretrained_cfg = None if pretrained_cfg is None else dict(pretrained_cfg)
        self._transform: Transform | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_transform": None}

    @property
    def transform(self) -> Transform:
        """A classifier's transform of images."""
        if self._transform is None:
            self._transform = evaluation_transform(self.pretrained_cfg or {})
        return self._transform

    def area(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part of an image, by its width and height, that a classifier sees."""
        return area_of(self.transform, size)

    def __call__(self, name: str, image: Image.Image) -> Prepared:
        """Prepare an image that was read by :mod:`transxnet.data.images.reading`.

        Raises:
            BadImageError: If it has another number of bands than the network takes.
        """
        if fault := bands_fault(image, self.channels):
            raise BadImageError(name, fault)
        if self.head is None:
            pixels = self.transform(image)
            return Prepared(name, pixels, image.size, tuple(pixels.shape))
        pixels = V.pil_to_tensor(image)
        if self.head.task == "segmentation":
            pixels = self.head.transform(pixels)
            return Prepared(name, pixels, image.size, tuple(pixels.shape))
        sides = self.head.transform.size(image.height, image.width)
        padded = tuple(math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in sides)
        return Prepared(name, pixels, image.size, padded)


def area_of(transform: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image that an evaluation transform shows the network.

    Args:
        transform: As :func:`~transxnet.data.transforms.evaluation_transform` returns it.
        size: Width and height of the image in pixels.

    Returns:
        Left, top, right and bottom in pixels of the image; beyond its sides where the transform adds borders.
    """
    evaluation: Any = transform.transforms[0] if isinstance(transform, BandTransform) else transform
    resize, crop = evaluation.transform.transforms[:2]
    limit = min(size) * evaluation.max_ratio  # longer images are cropped first
    starts = [max(0, (side - int(limit)) // 2) if max(size) > limit else 0 for side in size]
    kept = [side - 2 * start for side, start in zip(size, starts, strict=True)]
    ends = []
    for axis, (resized, shown) in enumerate(zip(_resized(resize, kept), reversed(crop.size), strict=True)):
        before = round((resized - shown) / 2) if shown <= resized else -((shown - resized) // 2)
        scale = kept[axis] / resized
        ends.append([starts[axis] + scale * before, starts[axis] + scale * (before + shown)])
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def _resized(resize: Any, size: Sequence[int]) -> tuple[int, int]:
    """Width and height that a transform's first step brings an image to."""
    width, height = size
    if isinstance(resize, ResizeKeepRatio):
        height, width = resize.get_params(torch.empty(1, height, width, device="meta"), resize.size, resize.longest)
    elif isinstance(resize.size, int):
        short = min(size)
        width, height = (int(resize.size * side / short) for side in size)
    else:
        height, width = resize.size
    return width, height
