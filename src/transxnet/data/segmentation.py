"""Images with a class for each pixel, as ADE20K has them."""

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

from transxnet.data.findings import Findings
from transxnet.data.images import BadImageError, find_images, opened, read_annotated, strips
from transxnet.data.names import is_folder, natural_key
from transxnet.data.randomness import seed_for
from transxnet.data.segmentation_classes import Colors, ade20k_classes, class_order, palette, read_classes
from transxnet.data.splits import TRAIN, VALIDATION, part_folder
from transxnet.dense.pixel_classes import IGNORED
from transxnet.errors import DataError
from transxnet.files import user_path

_HELD_OUT = 0.2
_CLASS_FILE = "classes.txt"
_MOST_CLASSES = 254  # a label is a byte, 255 is ignored, and 0 may be


@dataclass(frozen=True)
class SegmentationSource:
    """Images and their label images.

    Attributes:
        class_names: Names in the order of the labels.
        colors: (classes, 3), uint8, to draw them with.
        images: Image files.
        label_files: The label image of each.
        reduce_zero_label: Whether a label of 0 means "ignored", and the classes count from 1.
        findings: What was wrong with the folder.
        order: The class of each label of the files; None if they agree.
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

    def name(self, place: int) -> str:
        return str(self.images[place])

    def load(self, place: int) -> Image.Image:
        """The image as RGB, as it was labelled.

        Raises:
            BadImageError: If the file cannot be used, or has another size than its labels.
        """
        with opened(self.label_files[place]) as labels:
            size = labels.height, labels.width
        return read_annotated(self.images[place], size, f"its labels ({self.label_files[place]}) are")

    def labels(self, place: int) -> Tensor:
        """The class of each pixel, (H, W), int64; 255 is ignored.

        Raises:
            BadImageError: If the label file cannot be used, has another size than the image, or a
                label without a class.
        """
        path = self.label_files[place]
        values = _label_values(path)
        with opened(self.images[place]) as image:
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

    def subset(self, places: Sequence[int]) -> SegmentationSource:
        """The images at these places."""
        images, labels = ([files[int(place)] for place in places] for files in (self.images, self.label_files))
        return replace(self, images=images, label_files=labels)


@dataclass(frozen=True)
class SegmentationData:
    """Images to learn from, if there are any, and images to judge by."""

    train: SegmentationSource | None
    validation: SegmentationSource


def open_segmentation(
    data: str,
    *,
    reduce_zero_label: bool,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> SegmentationData:
    """A folder with ``images/`` and ``annotations/``, and ``training/`` and ``validation/`` in both.

    An image's labels are the file of the same name before the ending, grey or with a palette. The
    parts may also be called train and val; without parts, a fifth of the images is held out. The
    classes' names are in ``classes.txt``, one a line, with a colour (``#rrggbb``) if wanted; else
    they are ADE20K's, if its files have those names (``ADE_...``) or 150 classes are wanted.

    Args:
        data: The folder.
        reduce_zero_label: Whether a label of 0 means "ignored", and the classes count from 1, as ADE20K's do.
        seed: Chooses what is held out, where that is not given.
        classes: Class names whose order the labels take, as a network knows them.
        num_classes: How many classes there must be.

    Raises:
        DataError: If images or labels are not there, or the classes are not as wanted.
    """
    root = user_path(data)
    if not is_folder(root):
        kind = "is a file" if os.path.lexists(root) else "does not exist"
        raise DataError(f"{root} {kind}; data is a folder with images/ and annotations/")
    findings = Findings()
    parts = _pairs(root, findings)
    names, colors = _named_classes(root, parts, reduce_zero_label, classes, num_classes)
    if not 0 < len(names) <= _MOST_CLASSES:
        raise DataError(f"{root} has {len(names)} classes; labels of a byte tell 1 to {_MOST_CLASSES}")
    order = None
    if classes is not None and list(classes) != names:
        order = class_order(root, names, list(classes))
        colors = colors[[names.index(name) for name in classes]]
        names = list(classes)
    if num_classes not in (None, len(names)):
        raise DataError(f"{root} has {len(names)} classes, not the {num_classes} wanted")
    sources = {
        part: SegmentationSource(tuple(names), colors, images, labels, reduce_zero_label, findings, order)
        for part, (images, labels) in parts.items()
    }
    if "train" not in sources or "val" in sources:
        return SegmentationData(sources.get("train"), sources["val"])
    whole = sources["train"]
    if len(whole) < 2:
        raise DataError(f"{root} has a single image: nothing can be held out to judge by")
    places = np.random.default_rng(seed_for(seed)).permutation(len(whole))
    held = max(1, round(_HELD_OUT * len(whole)))
    return SegmentationData(*(whole.subset(np.sort(part).tolist()) for part in (places[held:], places[:held])))


def _pairs(root: Path, findings: Findings) -> dict[str, tuple[list[Path], list[Path]]]:
    """Images and label files of "train" and of "val"."""
    images, labels = root / "images", root / "annotations"
    for folder in (images, labels):
        if not is_folder(folder):
            raise DataError(f"{root} has no folder {folder.name}/; it needs images/ and annotations/")
    parts = {"train": TRAIN, "val": VALIDATION}
    folders = {part: (part_folder(images, names), part_folder(labels, names)) for part, names in parts.items()}
    given = {part: (one, other) for part, (one, other) in folders.items() if one and other}
    for part, pair in folders.items():
        if any(pair) and not all(pair):
            there = pair[0] or pair[1]
            raise DataError(f"{there} has no counterpart in {labels if pair[0] else images} ({part})")
    chosen = given or {"train": (images, labels)}
    return {part: _matched(one, other, findings) for part, (one, other) in chosen.items()}


def _matched(images: Path, labels: Path, findings: Findings) -> tuple[list[Path], list[Path]]:
    by_stem = _by_stem(images, find_images(images))
    labelled = _by_stem(labels, find_images(labels))
    for stem in by_stem:
        if stem not in labelled:
            findings.add("images without labels (left out)", str(by_stem[stem]))
    for stem in labelled:
        if stem not in by_stem:
            findings.add("labels without an image (left out)", str(labelled[stem]))
    stems = sorted(by_stem.keys() & labelled.keys(), key=natural_key)
    if not stems:
        raise DataError(f"no image of {images} has labels of the same name in {labels}")
    return [by_stem[stem] for stem in stems], [labelled[stem] for stem in stems]


def _by_stem(root: Path, files: Sequence[Path]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in files:
        stem = str(path.relative_to(root).with_suffix(""))
        if stem in stems:
            raise DataError(f"{stems[stem]} and {path} differ in their ending alone; remove one")
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
        return read_classes(root / _CLASS_FILE, _MOST_CLASSES)
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
            continue  # counted when it is read
        largest = max(largest, int(values.max(initial=0, where=values != IGNORED)))
    return largest


def _label_values(path: Path) -> npt.NDArray[np.uint8]:
    """The labels (H, W) of a label image."""
    with opened(path) as image:
        if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
            raise BadImageError(str(path), f"labels are grey or have a palette, but this is {image.mode}")
        image.load()
        labels = np.empty((image.height, image.width), np.uint8)
        for top, strip in strips(image):
            values = np.asarray(strip)
            if not 0 <= values.min() <= values.max() <= IGNORED:
                raise BadImageError(str(path), f"labels are 0 to 255, but this has {values.max()}")
            labels[top : top + len(values)] = values
    return labels
