"""Batches of detection images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.coco.opening import CocoSource
from transxnet.data.dense_transforms import DetectionAugmentation, augment_detection
from transxnet.data.loader import AddressedImages, Sample, indices_and_bad
from transxnet.dense.detection_transform import DetectionTransform, Target


class DetectionBatch(NamedTuple):
    """Images of one step.

    Attributes:
        images: (3, H, W) each, uint8, of any sizes.
        targets: For each image ``boxes`` (n, 4) in its pixels, ``labels`` (n) and perhaps ``masks`` (n, H, W); with
            ``has_mask`` (n) if only some of the objects have one.
        indices: (B), indices of the images in their source.
        bad: Name of and reason for each image that could not be used.
    """

    images: list[Tensor]
    targets: list[Target]
    indices: Tensor
    bad: list[tuple[str, str]]


class TrainingImages(AddressedImages):
    """Images and their objects, resized and perhaps flipped.

    Args:
        source: The images, all with objects.
        transform: Resizes images and their targets.
        augmentation: Augmentation of the images.
        masks: Whether the targets have masks.
        seed: With pass and index, the address of a sample's randomness.
    """

    def __init__(
        self,
        source: CocoSource,
        transform: DetectionTransform,
        augmentation: DetectionAugmentation,
        *,
        masks: bool,
        seed: int,
    ) -> None:
        super().__init__(len(source), seed=seed, replace_bad=True)
        self.source = source
        self.transform = transform
        self.augmentation = augmentation
        self.masks = masks

    def read(self, index: int) -> tuple[Tensor, Target]:
        picture, instances = self.source.upright(index)
        image = V.pil_to_tensor(picture)
        target = {"boxes": instances.boxes, "labels": instances.labels}
        if self.masks:
            target["masks"] = instances.masks(self.transform.size(*instances.size), empty=True)
            if None in instances.segmentations:
                target["has_mask"] = instances.has_mask
        return image, target

    def augment(self, stored: tuple[Tensor, Target], index: int) -> tuple[Tensor, Target]:
        image, target = stored
        target = self.transform.resized_target(target, (image.shape[1], image.shape[2]))
        boxes, masks = target["boxes"], target.get("masks")
        image, boxes, masks = augment_detection(self.transform.resized(image), boxes, masks, self.augmentation)
        changed = {"boxes": boxes} if masks is None else {"boxes": boxes, "masks": masks}
        return image, target | changed


class EvaluationImages(AddressedImages):
    """The upright images; the network resizes them, and detects in their pixels.

    The target of an image that was annotated as stored has ``turn``, the transposition that brought it upright.

    Args:
        source: The images.
    """

    def __init__(self, source: CocoSource) -> None:
        super().__init__(len(source))
        self.source = source

    def read(self, index: int) -> tuple[Tensor, Target]:
        image, turn = self.source.load(index), self.source.turn(index)
        if turn is None:
            return V.pil_to_tensor(image), {}
        return V.pil_to_tensor(image.transpose(turn)), {"turn": torch.tensor(turn.value)}

    def augment(self, stored: tuple[Tensor, Target], index: int) -> tuple[Tensor, Target]:
        return stored


def collate(samples: Sequence[Sample]) -> DetectionBatch:
    """One batch of the usable samples, with the names of the others; it may hold no image."""
    contents: list[Any] = [sample.content for sample in samples if sample.content is not None]
    return DetectionBatch(
        [image for image, _ in contents], [target for _, target in contents], *indices_and_bad(samples)
    )
