"""Images with objects, annotated in COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transxnet.data.coco.image_files import header
from transxnet.data.coco.orientation import Turn, inverse, turned_boxes, turned_masks, turned_size
from transxnet.data.coco.records import Annotations, ImageRecord
from transxnet.data.coco.run_lengths import decoded
from transxnet.data.findings import Findings
from transxnet.data.images.reading import read_annotated
from transxnet.errors import DataError

MIN_SIDE = 32
"""Minimum length of a training image's sides in pixels."""


@dataclass(frozen=True)
class Instances:
    """The objects of a training image.

    Attributes:
        boxes: (n, 4), float32: left, top, right and bottom in pixels, within the image.
        labels: (n), int64, from 0.
        segmentations: Polygons or run lengths of each; None for objects without a mask.
        size: Height and width of the image.
        turn: How the annotated image was turned.
    """

    boxes: Tensor
    labels: Tensor
    segmentations: list[Any]
    size: tuple[int, int]
    turn: Turn | None = None

    def turned(self, turn: Turn) -> Instances:
        """The objects of the annotated image in the turned one."""
        boxes = turned_boxes(self.boxes, self.size, turn)
        return replace(self, boxes=boxes, size=turned_size(self.size, turn), turn=turn)

    @property
    def has_mask(self) -> Tensor:
        """(n), whether each object has a mask."""
        return torch.tensor([segmentation is not None for segmentation in self.segmentations], dtype=torch.bool)

    def masks(self, size: tuple[int, int] | None = None, *, empty: bool = False) -> Tensor:
        """The objects' masks, (n, H, W), bool; each is resized to ``size`` if given.

        Args:
            size: Height and width of the masks; by default the image's.
            empty: Whether objects without a mask have an empty one.

        Raises:
            DataError: If an object has no mask, unless ``empty``.
        """
        if None in self.segmentations and not empty:
            raise DataError("an object has a box but no mask")
        known = [segmentation for segmentation in self.segmentations if segmentation is not None]
        if self.turn is None:
            found = decoded(known, *self.size, size)
        else:
            back = inverse(self.turn)
            shape = None if size is None else turned_size(size, back)
            found = turned_masks(decoded(known, *turned_size(self.size, back), shape), self.turn)
        if len(known) == len(self.segmentations):
            return found
        masks = torch.zeros(len(self.segmentations), *(size or self.size), dtype=torch.bool)
        masks[self.has_mask] = found
        return masks


@dataclass(frozen=True)
class CocoSource:
    """Images and their annotations.

    Attributes:
        class_names: Names in the order of the labels.
        category_ids: Their ids in the annotation file.
        images: The images, in order.
        annotations: All annotations.
        findings: Problems of the annotation file.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: Sequence[ImageRecord]
    annotations: Annotations
    findings: Findings

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images[index].path

    def load(self, index: int) -> Image.Image:
        """The image as RGB, in the orientation that was annotated.

        Raises:
            BadImageError: If the file cannot be used, or its size differs from the annotations'.
        """
        image = self.images[index]
        return read_annotated(image.path, (image.height, image.width), "its annotations are for")

    def instances(self, index: int) -> Instances:
        """An image's objects for training: without crowds and objects narrower than a pixel."""
        image, annotations = self.images[index], self.annotations
        rows = np.arange(len(annotations.labels))[annotations.of(index)]
        rows = rows[self._trainable(rows)]
        boxes = annotations.boxes[rows]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        corners = corners.clip(0, [image.width, image.height, image.width, image.height])
        return Instances(
            torch.from_numpy(corners).float(),
            torch.from_numpy(annotations.labels[rows]),
            [annotations.segmentation(row) for row in rows],
            (image.height, image.width),
        )

    def turn(self, index: int) -> Turn | None:
        """How an image is turned that was annotated as stored, so that it is upright; None if it is."""
        image = self.images[index]
        found = header(image.path)
        if found is None or (found.height, found.width) != (image.height, image.width):
            return None
        return found.turn

    def upright(self, index: int) -> tuple[Image.Image, Instances]:
        """The image as a viewer shows it, which is how networks take it, and its objects there.

        Raises:
            BadImageError: As for :meth:`load`.
        """
        image, instances, turn = self.load(index), self.instances(index), self.turn(index)
        return (image, instances) if turn is None else (image.transpose(turn), instances.turned(turn))

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        return not self.without_mask

    @property
    def without_mask(self) -> list[int]:
        """Rows of the objects without a mask."""
        bare = (np.diff(self.annotations.ends) == 0) & ~self.annotations.crowds
        return np.flatnonzero(bare).tolist()

    def images_without_mask(self) -> set[int]:
        """The indices of the images that have an annotation without a mask."""
        rows = np.flatnonzero(np.diff(self.annotations.ends) == 0)
        return set((np.searchsorted(self.annotations.first, rows, side="right") - 1).tolist())

    def narrow_rows(self) -> list[int]:
        """Rows of the objects that are narrower than a pixel."""
        narrow = (self.annotations.boxes[:, 2:] < 1).any(axis=1) & ~self.annotations.crowds
        return np.flatnonzero(narrow).tolist()

    def owner(self, row: int) -> int:
        """The index of the image that an annotation's row belongs to."""
        return int(np.searchsorted(self.annotations.first, row, side="right")) - 1

    @property
    def landscape(self) -> list[bool]:
        """Whether each image is at least as wide as high."""
        return [image.width >= image.height for image in self.images]

    def subset(self, indices: Sequence[int]) -> CocoSource:
        """The images at the given indices."""
        indices = [int(index) for index in indices]
        images = [self.images[index] for index in indices]
        return replace(self, images=images, annotations=self.annotations.of_images(indices))

    def trainable(self) -> CocoSource:
        """The images usable for training: sides of at least 32 pixels, and at least one object.

        Raises:
            DataError: If there are none.
        """
        objects = np.concatenate([[0], np.cumsum(self._trainable(np.arange(len(self.annotations.labels))))])
        counts = np.diff(objects[self.annotations.first])
        sides = np.array([min(image.height, image.width) for image in self.images])
        indices = np.flatnonzero((counts > 0) & (sides >= MIN_SIDE))
        if not len(indices):
            raise DataError(
                f"no usable training image: each has a side below {MIN_SIDE} pixels, or only crowds (--crowds "
                "as-objects takes them as objects) or boxes narrower than a pixel"
            )
        return self.subset(indices.tolist())

    def ground_truth(self) -> dict[str, Any]:
        """The cleaned annotations in COCO's format, crowds included, for evaluation."""
        annotations = self.annotations
        entries: list[dict[str, Any]] = []
        for index, image in enumerate(self.images):
            rows = annotations.of(index)
            for row in range(rows.start, rows.stop):
                entry = {
                    "id": int(annotations.ids[row]),
                    "image_id": image.id,
                    "category_id": self.category_ids[annotations.labels[row]],
                    "bbox": annotations.boxes[row].tolist(),
                    "area": float(annotations.areas[row]),
                    "iscrowd": int(annotations.crowds[row]),
                }
                segmentation = annotations.segmentation(row)
                entries.append(entry if segmentation is None else entry | {"segmentation": segmentation})
        return {
            "info": {},
            "images": [
                {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in self.images
            ],
            "categories": [
                {"id": number, "name": name} for number, name in zip(self.category_ids, self.class_names, strict=True)
            ],
            "annotations": entries,
        }

    def _trainable(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        wide = (self.annotations.boxes[rows, 2:] >= 1).all(axis=1)
        usable: np.ndarray[Any, np.dtype[np.bool_]] = wide & ~self.annotations.crowds[rows]
        usable &= self.annotations.areas[rows] > 0
        return usable
