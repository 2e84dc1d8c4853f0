"""Images with a class for every pixel on their way to a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.dense_transforms import SegmentationAugmentation, augment_segmentation, evaluation_image
from transxnet.data.loader import AddressedImages, Sample, indices_and_bad
from transxnet.data.segmentation import SegmentationSource


class SegmentationBatch(NamedTuple):
    """Images of one step, all of one size.

    Attributes:
        images: (B, 3, H, W), normalised.
        labels: (B, H, W) in training; in evaluation (B, H', W') of the images as they were given.
        indices: (B), places of the images in their source.
        bad: Name of and reason for each image that could not be used.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]


class TrainingImages(AddressedImages):
    """Crops of varied images and their labels.

    Args:
        source: The images.
        augmentation: How they are varied.
        seed: With pass and index, the address of a sample's randomness.
    """

    def __init__(self, source: SegmentationSource, augmentation: SegmentationAugmentation, *, seed: int) -> None:
        super().__init__(len(source), seed=seed, replace_bad=True)
        self.source = source
        self.augmentation = augmentation

    def read(self, place: int) -> tuple[Tensor, Tensor]:
        return V.pil_to_tensor(self.source.load(place)), self.source.labels(place)

    def augment(self, stored: tuple[Tensor, Tensor], place: int) -> tuple[Tensor, Tensor]:
        return augment_segmentation(*stored, self.augmentation)


class EvaluationImages(AddressedImages):
    """Whole images at the size that they are segmented at, with labels at their own size.

    Args:
        source: The images.
        long: Bound of the longer side in pixels.
        short: Bound of the shorter side.
    """

    def __init__(self, source: SegmentationSource, long: int, short: int) -> None:
        super().__init__(len(source))
        self.source = source
        self.long = long
        self.short = short

    def read(self, place: int) -> tuple[Tensor, Tensor]:
        return V.pil_to_tensor(self.source.load(place)), self.source.labels(place)

    def augment(self, stored: tuple[Tensor, Tensor], place: int) -> tuple[Tensor, Tensor]:
        image, labels = stored
        return evaluation_image(image, self.long, self.short), labels


def collate(samples: Sequence[Sample]) -> SegmentationBatch:
    """One batch of the usable samples, with the names of the others; it may hold no image."""
    contents: list[Any] = [sample.content for sample in samples if sample.content is not None]
    if not contents:
        return SegmentationBatch(torch.empty(0), torch.empty(0, dtype=torch.long), *indices_and_bad(samples))
    return SegmentationBatch(
        torch.stack([image for image, _ in contents]), torch.stack([labels for _, labels in contents]),
        *indices_and_bad(samples),
    )  # fmt: skip
