"""Images with objects, annotated in COCO's format."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transxnet.data.coco_checks import read_coco
from transxnet.data.coco_layout import annotation_files, located
from transxnet.data.coco_records import Annotations, ImageRecord
from transxnet.data.description import DataDescription, PartDescription
from transxnet.data.findings import Findings, merged
from transxnet.data.images import read_annotated
from transxnet.data.names import listed
from transxnet.data.run_lengths import decoded
from transxnet.data.splits import held_out
from transxnet.errors import DataError
from transxnet.files import reading, user_path

_MIN_SIDE = 32  # pixels, of training images


@dataclass(frozen=True)
class Instances:
    """The objects of a training image.

    Attributes:
        boxes: (n, 4), float32: left, top, right and bottom in pixels, within the image.
        labels: (n), int64, from 0.
        segmentations: Polygons or run lengths of each; None for objects without a mask.
        size: Height and width of the image.
    """

    boxes: Tensor
    labels: Tensor
    segmentations: list[Any]
    size: tuple[int, int]

    def masks(self, size: tuple[int, int] | None = None) -> Tensor:
        """The objects' masks, (n, H, W), bool; each is resized to ``size`` if given.

        Raises:
            DataError: If an object has no mask.
        """
        if None in self.segmentations:
            raise DataError("an object has a box but no mask")
        return decoded(self.segmentations, *self.size, size)


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

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        lengths = np.diff(self.annotations.ends)
        return bool((lengths[~self.annotations.crowds] > 0).all())

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
        indices = np.flatnonzero((counts > 0) & (sides >= _MIN_SIDE))
        if not len(indices):
            raise DataError("no usable training image: each is smaller than 32 pixels or has only crowds")
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


@dataclass(frozen=True)
class InstanceData:
    """Training images, if there are any, and validation images.

    Attributes:
        train: Training images.
        validation: Validation images.
        everything: The images that both were drawn from; None if the data set has a validation part.
    """

    train: CocoSource | None
    validation: CocoSource
    everything: CocoSource | None = None

    def description(self) -> DataDescription:
        """What was found in the data set."""
        sources = {"training": self.train, "validation": self.validation}
        origin = "in one annotation file" if self.everything else "in an annotation file of its own"
        parts = [_described(name, origin, source) for name, source in sources.items() if source is not None]
        findings = merged(source.findings for source in sources.values() if source is not None)
        return DataDescription("COCO", tuple(parts), findings)


def _described(name: str, origin: str, source: CocoSource) -> PartDescription:
    counts = np.bincount(source.annotations.labels, minlength=len(source.class_names)).tolist()
    return PartDescription(name, origin, len(source), "objects", dict(zip(source.class_names, counts, strict=True)))


def open_coco(data: str, *, seed: int = 0, classes: Sequence[str] | None = None, masks: bool = True) -> InstanceData:
    """Open a folder of images with COCO annotations, in COCO's or Roboflow's layout.

    COCO's has ``annotations/instances_train2017.json`` and ``instances_val2017.json``, or other JSON
    files with "train" and "val" in their names, and image folders named after the parts; Roboflow's
    has ``train/_annotations.coco.json`` and ``valid/_annotations.coco.json`` beside the images. From a
    single annotation file that is not for validation, a fifth of the images is held out.

    Args:
        data: The folder, or an annotation file.
        seed: Chooses the held-out images if there is no validation file.
        classes: Class names in the order of the labels, such as a network's; by default the file's.
        masks: Whether to check and keep segmentations.

    Raises:
        DataError: If there are no annotations or images, annotations cannot be read, or the classes
            differ from ``classes`` or between the parts.
    """
    files = annotation_files(data)
    if "train" not in files:
        return InstanceData(None, open_coco_file(files["val"], classes=classes, masks=masks))
    train = open_coco_file(files["train"], classes=classes, masks=masks)
    if "val" in files:
        validation = open_coco_file(files["val"], classes=classes or train.class_names, masks=masks)
        return InstanceData(train, validation)
    held = held_out(np.zeros(len(train), np.int64), seed)
    if not held.any():
        raise DataError(f"{files['train']} has a single image: nothing can be held out for validation")
    learned, validation = (train.subset(np.flatnonzero(part).tolist()) for part in (~held, held))
    return InstanceData(learned, validation, train)


def open_coco_file(
    json_path: str | Path,
    images_folder: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
) -> CocoSource:
    """Open the images of one annotation file.

    Args:
        json_path: The file.
        images_folder: Folder of the images; by default the usual folders are searched.
        classes: As for :func:`open_coco`.
        masks: As for :func:`open_coco`.

    Raises:
        DataError: As for :func:`open_coco`.
    """
    path = user_path(json_path)
    with _no_garbage_collection(), reading(path, DataError):
        content = read_coco(path, masks=masks)
    images = located(path, content.images, user_path(images_folder) if images_folder else None)
    source = CocoSource(content.class_names, content.category_ids, images, content.annotations, content.findings)
    return source if classes is None else _ordered(path, source, list(classes))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn off Python's garbage collector, which takes a third of the time for a million annotations."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ordered(path: Path, source: CocoSource, classes: list[str]) -> CocoSource:
    """The same annotations, with labels in the order of ``classes``."""
    position = {name: index for index, name in enumerate(classes)}
    given = dict(zip(source.class_names, source.category_ids, strict=True))
    unknown = [name for name in given if name not in position]
    missing = [name for name in classes if name not in given]
    if unknown or missing:
        parts = [f"has {listed(unknown)}"] * bool(unknown) + [f"lacks {listed(missing)}"] * bool(missing)
        raise DataError(f"{path}: its categories are not the {len(classes)} expected classes: it {' and '.join(parts)}")
    labels = np.array([position[name] for name in given])
    ids = tuple(given[name] for name in classes)
    annotations = replace(source.annotations, labels=labels[source.annotations.labels])
    return replace(source, class_names=tuple(classes), category_ids=ids, annotations=annotations)
