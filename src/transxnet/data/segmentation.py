"""Images with a class for each pixel, in ADE20K's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transxnet.data.description import DataDescription, PartDescription
from transxnet.data.findings import Findings
from transxnet.data.images import BadImageError, find_images, opened, read_annotated, strips
from transxnet.data.names import is_folder, natural_key
from transxnet.data.segmentation_classes import Colors, ade20k_classes, class_order, palette, read_classes
from transxnet.data.splits import TRAIN, VALIDATION, held_out, part_folder
from transxnet.dense.pixel_classes import IGNORED
from transxnet.errors import DataError
from transxnet.files import user_path

_CLASS_FILE = "classes.txt"
_MAX_CLASSES = 254  # labels are bytes; 255 is ignored, and 0 may be


@dataclass(frozen=True)
class SegmentationSource:
    """Images and their label images.

    Attributes:
        class_names: Names in the order of the labels.
        colors: (classes, 3), uint8, for drawing.
        images: Image files.
        label_files: The label image of each.
        reduce_zero_label: Whether label 0 is ignored and classes start at 1.
        findings: Problems of the folder.
        order: The class of each label in the files; None if they are the same.
    """

    class_names: tuple[str, ...]
    colors: Colors
    images: Sequence[Path]
    label_files: Sequence[Path]
    reduce_zero_label: bool
    findings: Findings
    order: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self.images[index])

    def load(self, index: int) -> Image.Image:
        """The image as RGB, in the orientation that was labelled.

        Raises:
            BadImageError: If the file cannot be used, or its size differs from the labels'.
        """
        with opened(self.label_files[index]) as labels:
            size = labels.height, labels.width
        return read_annotated(self.images[index], size, f"its labels ({self.label_files[index]}) are")

    def labels(self, index: int) -> Tensor:
        """The class of each pixel, (H, W), int64; 255 is ignored.

        Raises:
            BadImageError: If the label file cannot be used, its size differs from the image's, or it has
                a label without a class.
        """
        path = self.label_files[index]
        values = _label_values(path)
        with opened(self.images[index]) as image:
            if sorted(image.size) != sorted(values.shape):
                size = f"{values.shape[1]} x {values.shape[0]}"
                raise BadImageError(str(path), f"{size} pixels, but its image is {image.width} x {image.height}")
        known = len(self.class_names) + self.reduce_zero_label
        unknown = values[(values >= known) & (values != IGNORED)]
        if len(unknown):
            raise BadImageError(str(path), f"label {unknown.max()}, but the {known} labels are 0 to {known - 1}")
        classes = np.full(256, IGNORED, np.int64)
        names = range(len(self.class_names)) if self.order is None else self.order
        classes[self.reduce_zero_label : known] = names
        return torch.from_numpy(classes[values])

    def subset(self, indices: Sequence[int]) -> SegmentationSource:
        """The images at the given indices."""
        images, labels = ([files[int(index)] for index in indices] for files in (self.images, self.label_files))
        return replace(self, images=images, label_files=labels)


@dataclass(frozen=True)
class SegmentationData:
    """Training images, if there are any, and validation images.

    Attributes:
        train: Training images.
        validation: Validation images.
        everything: The images that both were drawn from; None if the data set has a validation part.
    """

    train: SegmentationSource | None
    validation: SegmentationSource
    everything: SegmentationSource | None = None

    def description(self) -> DataDescription:
        """What was found in the data set."""
        sources = {"training": self.train, "validation": self.validation}
        origin = "in one folder" if self.everything else "in a folder of its own"
        parts = [
            PartDescription(name, origin, len(source), "pixels", {})
            for name, source in sources.items()
            if source is not None
        ]
        return DataDescription("ADE20K", tuple(parts), self.validation.findings)


def open_segmentation(
    data: str,
    *,
    reduce_zero_label: bool,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> SegmentationData:
    """Open a folder with ``images/`` and ``annotations/``, and ``training/`` and ``validation/`` in both.

    An image's labels are in the file of the same name but for the suffix, grey or with a palette. The
    parts may also be called train and val; without parts, a fifth of the images is held out. Class
    names are in ``classes.txt``, one per line, optionally with a colour (``#rrggbb``); otherwise they
    are ADE20K's if the files are named ``ADE_...`` or 150 classes are expected.

    Args:
        data: The folder.
        reduce_zero_label: Whether label 0 is ignored and classes start at 1, as in ADE20K.
        seed: Chooses the held-out images if there is no validation part.
        classes: Class names in the order of the labels, such as a network's.
        num_classes: Expected number of classes.

    Raises:
        DataError: If there are no images or labels, or the classes are not as expected.
    """
    root = user_path(data)
    if not is_folder(root):
        kind = "is a file" if os.path.lexists(root) else "does not exist"
        raise DataError(f"{root} {kind}; data is a folder with images/ and annotations/")
    findings = Findings()
    parts = _pairs(root, findings)
    names, colors = _named_classes(root, parts, reduce_zero_label, classes, num_classes)
    if not 0 < len(names) <= _MAX_CLASSES:
        raise DataError(f"{root} has {len(names)} classes; 8-bit labels allow 1 to {_MAX_CLASSES}")
    order = None
    if classes is not None and list(classes) != names:
        order = class_order(root, names, list(classes))
        colors = colors[[names.index(name) for name in classes]]
        names = list(classes)
    if num_classes not in (None, len(names)):
        raise DataError(f"{root} has {len(names)} classes, not the {num_classes} expected")
    sources = {
        part: SegmentationSource(tuple(names), colors, images, labels, reduce_zero_label, findings, order)
        for part, (images, labels) in parts.items()
    }
    if "train" not in sources or "val" in sources:
        return SegmentationData(sources.get("train"), sources["val"])
    everything = sources["train"]
    held = held_out(np.zeros(len(everything), np.int64), seed)
    if not held.any():
        raise DataError(f"{root} has a single image: nothing can be held out for validation")
    train, validation = (everything.subset(np.flatnonzero(part).tolist()) for part in (~held, held))
    return SegmentationData(train, validation, everything)


def _pairs(root: Path, findings: Findings) -> dict[str, tuple[list[Path], list[Path]]]:
    """Images and label files of "train" and "val"."""
    images, labels = root / "images", root / "annotations"
    for folder in (images, labels):
        if not is_folder(folder):
            raise DataError(f"{root} has no folder {folder.name}/; it needs images/ and annotations/")
    parts = {"train": TRAIN, "val": VALIDATION}
    folders = {part: (part_folder(images, names), part_folder(labels, names)) for part, names in parts.items()}
    given = {part: (one, other) for part, (one, other) in folders.items() if one and other}
    for part, pair in folders.items():
        if any(pair) and not all(pair):
            present = pair[0] or pair[1]
            raise DataError(f"{present} has no counterpart in {labels if pair[0] else images} ({part})")
    chosen = given or {"train": (images, labels)}
    return {part: _matched(one, other, findings) for part, (one, other) in chosen.items()}


def _matched(images: Path, labels: Path, findings: Findings) -> tuple[list[Path], list[Path]]:
    by_stem = _by_stem(images, find_images(images))
    labelled = _by_stem(labels, find_images(labels))
    for stem in by_stem:
        if stem not in labelled:
            findings.add("images without labels (dropped)", str(by_stem[stem]))
    for stem in labelled:
        if stem not in by_stem:
            findings.add("labels without an image (dropped)", str(labelled[stem]))
    stems = sorted(by_stem.keys() & labelled.keys(), key=natural_key)
    if not stems:
        raise DataError(f"no image of {images} has labels of the same name in {labels}")
    return [by_stem[stem] for stem in stems], [labelled[stem] for stem in stems]


def _by_stem(root: Path, files: Sequence[Path]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in files:
        stem = str(path.relative_to(root).with_suffix(""))
        if stem in stems:
            raise DataError(f"{stems[stem]} and {path} differ only in their suffix; remove one")
        stems[stem] = path
    return stems


def _named_classes(
    root: Path,
    parts: dict[str, tuple[list[Path], list[Path]]],
    reduce_zero_label: bool,
    classes: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[list[str], Colors]:
    if os.path.lexists(root / _CLASS_FILE):
        return read_classes(root / _CLASS_FILE, _MAX_CLASSES)
    ade20k = ade20k_classes()
    released = all(path.name.startswith("ADE_") for images, _ in parts.values() for path in images)
    if reduce_zero_label and (released or (num_classes == len(ade20k[0]) and classes is None)):
        return ade20k
    if classes is not None:
        return list(classes), palette(len(classes))
    if num_classes is None:
        largest = _largest_label([path for _, files in parts.values() for path in files])
        num_classes = largest + (not reduce_zero_label)
    return [f"class {index}" for index in range(num_classes)], palette(num_classes)


def _largest_label(files: Sequence[Path]) -> int:
    largest = 0
    for path in files:
        try:
            values = _label_values(path)
        except BadImageError:
            continue  # reported when it is read
        largest = max(largest, int(values.max(initial=0, where=values != IGNORED)))
    return largest


def _label_values(path: Path) -> npt.NDArray[np.uint8]:
    """The labels (H, W) of a label image."""
    with opened(path) as image:
        if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
            raise BadImageError(str(path), f"labels must be grey or have a palette, not {image.mode}")
        image.load()
        labels = np.empty((image.height, image.width), np.uint8)
        for top, strip in strips(image):
            values = np.asarray(strip)
            if not 0 <= values.min() <= values.max() <= IGNORED:
                raise BadImageError(str(path), f"labels must be 0 to 255, not {values.max()}")
            labels[top : top + len(values)] = values
    return labels
