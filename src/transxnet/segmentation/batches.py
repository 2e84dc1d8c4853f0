"""Batches of images with a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.dense_transforms import SegmentationAugmentation, augment_segmentation
from transxnet.data.loader import AddressedImages, Sample, indices_and_bad
from transxnet.data.masks.opening import SegmentationSource
from transxnet.dense.segmentation_transform import SegmentationTransform


class SegmentationBatch(NamedTuple):
    """Images of one step, all of one size.

    Attributes:
        images: (B, 3, H, W), normalised.
        labels: (B, H, W) in training; in evaluation (B, H', W') of the images as they were given.
        indices: (B), indices of the images in their source.
        bad: Name of and reason for each image that could not be used.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]


class TrainingImages(AddressedImages):
    """Crops of augmented images and their labels.

    Args:
        source: The images.
        augmentation: Augmentation of the images.
        transform: Normalises them.
        seed: With pass and index, the address of a sample's randomness.
    """

    def __init__(
        self,
        source: SegmentationSource,
        augmentation: SegmentationAugmentation,
        transform: SegmentationTransform,
        *,
        seed: int,
    ) -> None:
        super().__init__(len(source), seed=seed, replace_bad=True)
        self.source = source
        self.augmentation = augmentation
        self.transform = transform

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        return V.pil_to_tensor(self.source.load(index)), self.source.labels(index)

    def augment(self, stored: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
        return augment_segmentation(*stored, self.augmentation, self.transform)


class EvaluationImages(AddressedImages):
    """Whole images at the size that they are segmented at, with labels at their own size.

    Args:
        source: The images.
        transform: Resizes and normalises them.
    """

    def __init__(self, source: SegmentationSource, transform: SegmentationTransform) -> None:
        super().__init__(len(source))
        self.source = source
        self.transform = transform

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        return V.pil_to_tensor(self.source.load(index)), self.source.labels(index)

    def augment(self, stored: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
        image, labels = stored
        return self.transform(image), labels


def collate(samples: Sequence[Sample]) -> SegmentationBatch:
    """One batch of the usable samples, with the names of the others; it may hold no image."""
    contents: list[Any] = [sample.content for sample in samples if sample.content is not None]
    if not contents:
        return SegmentationBatch(torch.empty(0), torch.empty(0, dtype=torch.long), *indices_and_bad(samples))
    return SegmentationBatch(
        torch.stack([image for image, _ in contents]), torch.stack([labels for _, labels in contents]),
        *indices_and_bad(samples),
    )  # fmt: skip
