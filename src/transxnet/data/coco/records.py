"""Records of a COCO annotation file, in compact form for worker processes."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transxnet.data.findings import Findings


class ImageRecord(NamedTuple):
    """An image of an annotation file.

    Attributes:
        id: Its id in the file.
        file_name: Its name in the file.
        path: Its path.
        height: Height in pixels, from the file.
        width: Width in pixels, from the file.
    """

    id: int
    file_name: str
    path: str
    height: int
    width: int


@dataclass(frozen=True)
class Annotations:
    """All annotations, sorted by image; those of image i are ``first[i]`` to ``first[i + 1]``.

    Attributes:
        first: (images + 1).
        boxes: (n, 4): x, y, width, height.
        labels: (n), class indices.
        areas: (n), in pixels.
        crowds: (n), whether an annotation covers many objects.
        ids: (n), positive and unique.
        packed: All segmentations in one block, which is several times smaller than lists of numbers
            when it is sent to worker processes.
        ends: (n + 1), boundaries of the segmentations in the block; equal for annotations without one.
    """

    first: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    packed: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    def of(self, image: int) -> slice:
        """The rows of an image's annotations."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def segmentation(self, index: int) -> Any:
        """An annotation's polygons or run lengths; None if it has no mask."""
        packed = self.packed[self.ends[index] : self.ends[index + 1]]
        return marshal.loads(packed.tobytes()) if len(packed) else None

    def of_images(self, images: Sequence[int]) -> Annotations:
        """The annotations of the images with these indices."""
        slices = [self.of(image) for image in images]
        sizes = [part.stop - part.start for part in slices]
        rows = np.concatenate([np.arange(part.start, part.stop) for part in slices] or [np.empty(0, np.int64)])
        blocks = [self.packed[self.ends[part.start] : self.ends[part.stop]] for part in slices]
        return Annotations(
            first=np.cumsum([0, *sizes], dtype=np.int64),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            crowds=self.crowds[rows],
            ids=self.ids[rows],
            packed=np.concatenate([np.empty(0, np.uint8), *blocks]),
            ends=np.cumsum([0, *np.diff(self.ends)[rows]], dtype=np.int64),
        )


class CocoFile(NamedTuple):
    """The usable contents of an annotation file.

    Attributes:
        class_names: Names of the categories, in ascending order of their ids.
        category_ids: The ids.
        images: The images in the file's order; ``path`` is still the name.
        annotations: The annotations, sorted by image.
        findings: Problems of the file.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[ImageRecord]
    annotations: Annotations
    findings: Findings
