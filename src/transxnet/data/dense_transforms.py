"""Augmenting images together with their boxes, masks and labels, as for the released networks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from transxnet.bounds import ImageSide, PositiveShare, ScaleFactor, Share, StoredSide, check_bounds
from transxnet.dense.pixel_classes import IGNORED
from transxnet.dense.segmentation_transform import SegmentationTransform, fitted, resized
from transxnet.errors import ConfigError

_RELEASED = SegmentationTransform()
_CROP_TRIES = 10
_BRIGHTNESS = 32  # maximum change in grey levels
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18 / 180  # of the whole circle, as 18 of OpenCV's half degrees


@dataclass(frozen=True)
class SegmentationAugmentation:
    """Augmentation of training images and their labels.

    The defaults are those of the released segmenters.

    Attributes:
        scale: Range of the factor on the size below.
        crop: Height and width of training crops in pixels.
        max_share: Maximum share of one class in a crop's labelled pixels, if 10 tries find such a crop.
        hflip: Probability of a horizontal flip.
        photometric: Whether to change brightness, contrast, saturation and hue.
        long: Maximum of an image's longer side in pixels, before the factor.
        short: Maximum of the shorter side.
    """

    scale: tuple[ScaleFactor, ScaleFactor] = (0.5, 2.0)
    crop: ImageSide = 512
    max_share: PositiveShare = 0.75
    hflip: Share = 0.5
    photometric: bool = True
    long: StoredSide = 2048
    short: StoredSide = 512

    def __post_init__(self) -> None:
        check_bounds(self, "augmentation.")
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"augmentation.scale must be increasing, not {self.scale[0]:g} to {self.scale[1]:g}")
        if self.short > self.long:
            raise ConfigError(f"augmentation.short must be at most long ({self.long}), not {self.short}")


@dataclass(frozen=True)
class DetectionAugmentation:
    """Augmentation of training images and their objects.

    Attributes:
        hflip: Probability of a horizontal flip.
    """

    hflip: Share = 0.5

    def __post_init__(self) -> None:
        check_bounds(self, "augmentation.")


def augment_detection(
    image: Tensor, boxes: Tensor, masks: Tensor | None, augmentation: DetectionAugmentation
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Randomly flip an image and its objects.

    Args:
        image: (3, H, W).
        boxes: (n, 4): left, top, right and bottom in pixels.
        masks: (n, H, W), if there are any.
        augmentation: The settings.
    """
    if random.random() >= augmentation.hflip:
        return image, boxes, masks
    width = image.shape[2]
    flipped = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return image.flip(2), flipped, None if masks is None else masks.flip(2)


def augment_segmentation(
    image: Tensor,
    labels: Tensor,
    augmentation: SegmentationAugmentation,
    transform: SegmentationTransform = _RELEASED,
) -> tuple[Tensor, Tensor]:
    """Resize, crop, augment and normalise an image together with its labels.

    An image smaller than the crop is padded at the right and the bottom, with zeros (the mean colour) and 255.

    Args:
        image: (3, H, W), uint8.
        labels: (H, W), classes, or 255 for ignored pixels.
        augmentation: The settings.
        transform: Normalises the image; the released one by default.

    Returns:
        (3, crop, crop), float, and (crop, crop), int64.
    """
    factor = random.uniform(*augmentation.scale)
    long, short = int(augmentation.long * factor), int(augmentation.short * factor)
    size = fitted(image.shape[1], image.shape[2], long, short)
    image, labels = resized(image, size), resized_labels(labels, size)
    top, left = _crop_position(labels, augmentation)
    window = slice(top, top + augmentation.crop), slice(left, left + augmentation.crop)
    image, labels = image[:, *window], labels[window]
    if random.random() < augmentation.hflip:
        image, labels = image.flip(2), labels.flip(1)
    if augmentation.photometric:
        image = photometric_distortion(image)
    padding = 0, augmentation.crop - labels.shape[1], 0, augmentation.crop - labels.shape[0]
    return F.pad(transform.normalised(image), padding), F.pad(labels, padding, value=IGNORED)


def resized_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels (H, W) to the nearest pixel as OpenCV does; torchvision's is sometimes off by one."""
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows][:, columns]


def _nearest(old: int, new: int) -> Tensor:
    step = 1 / (new / old)
    return (torch.arange(new, dtype=torch.float64) * step).floor().long().clamp(max=old - 1)


def _crop_position(labels: Tensor, augmentation: SegmentationAugmentation) -> tuple[int, int]:
    """Top and left of a crop that no class dominates; of the last try, if there is none."""
    crop = augmentation.crop
    top = left = 0
    for _ in range(_CROP_TRIES):
        top, left = (random.randint(0, max(side - crop, 0)) for side in labels.shape)
        counts = labels[top : top + crop, left : left + crop].reshape(-1).bincount(minlength=IGNORED + 1)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < augmentation.max_share * counts.sum():
            break
    return top, left


def photometric_distortion(image: Tensor) -> Tensor:
    """Change the light of an image (3, H, W), uint8; each of four changes has probability one half.

    The order is brightness, contrast, saturation, hue, or with contrast last.
    """
    image = image.float()
    if _half():
        image = _levels(image + random.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = _half()
    contrast = random.uniform(*_CONTRAST) if _half() else 1.0
    if contrast_first:
        image = _levels(image * contrast)
    if _half():
        image = _saturated(image, random.uniform(*_SATURATION))
    if _half():
        image = V.adjust_hue(image / 255, random.uniform(-_HUE, _HUE)) * 255
    if not contrast_first:
        image = _levels(image * contrast)
    return image.round().to(torch.uint8)


def _saturated(image: Tensor, factor: float) -> Tensor:
    """Multiply HSV's saturation by a factor, up to 1; value and hue are unchanged."""
    value = image.amax(dim=0, keepdim=True)
    limit = value / (value - image.amin(dim=0, keepdim=True)).clamp(min=1e-3)
    return value + (image - value) * limit.clamp(max=factor)


def _levels(image: Tensor) -> Tensor:
    return image.clamp(0, 255)


def _half() -> bool:
    return random.random() < 0.5
