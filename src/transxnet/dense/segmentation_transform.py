"""From images to what a segmenter takes, as the released segmenters were evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms.v2 import functional as V

_MULTIPLE = 32  # of an evaluated image's sides


@dataclass(frozen=True)
class SegmentationTransform:
    """Fits an image into a size, resizes it again, up to multiples of 32, and normalises it.

    Attributes:
        short: Bound of the shorter side in pixels.
        long: Bound of the longer side.
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel.
    """

    short: int = 512
    long: int = 2048
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    def __call__(self, image: Tensor) -> Tensor:
        """Shapes: (3, H, W), uint8, to (3, H', W'), float."""
        image = resized(image, fitted(image.shape[1], image.shape[2], self.long, self.short))
        height, width = (-(-side // _MULTIPLE) * _MULTIPLE for side in image.shape[1:])
        return self.normalised(resized(image, (height, width)))

    def normalised(self, image: Tensor) -> Tensor:
        """An image (3, H, W), uint8, minus the mean, divided by the standard deviation."""
        result: Tensor = V.normalize(image / 255, list(self.mean), list(self.std))
        return result


def fitted(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    """The largest size of the same shape with sides up to ``long`` and ``short``."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, H, W), uint8, at another size: bilinear without antialiasing, as OpenCV does it."""
    return image if image.shape[1:] == size else V.resize(image, list(size), antialias=False)
