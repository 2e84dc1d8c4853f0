"""Images made ready for a network apart from it: in other processes, before a batch is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.images.pixel_values import bands_fault
from transxnet.data.images.reading import BadImageError
from transxnet.data.loader import Transform
from transxnet.data.transforms import evaluation_transform
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


class Preparation:
    """What makes a predictor's images ready; it can be pickled, and holds no network.

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

    def __call__(self, name: str, image: Image.Image) -> Prepared:
        """Prepare an image that was read by :mod:`transxnet.data.images.reading`.

        Raises:
            BadImageError: If it has another number of bands than the network takes.
        """
        if fault := bands_fault(image, self.channels):
            raise BadImageError(name, fault)
        if self.head is None:
            if self._transform is None:
                self._transform = evaluation_transform(self.pretrained_cfg or {})
            pixels = self._transform(image)
            return Prepared(name, pixels, image.size, tuple(pixels.shape))
        pixels = V.pil_to_tensor(image)
        if self.head.task == "segmentation":
            pixels = self.head.transform(pixels)
            return Prepared(name, pixels, image.size, tuple(pixels.shape))
        sides = self.head.transform.size(image.height, image.width)
        padded = tuple(math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in sides)
        return Prepared(name, pixels, image.size, padded)


def stacked(images: list[Prepared]) -> Tensor:
    """A batch (B, C, H, W) of images of one group."""
    return torch.stack([image.pixels for image in images])
