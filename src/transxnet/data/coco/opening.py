"""Opening images with objects, annotated in COCO's format."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from transxnet.data.coco.categories import ordered
from transxnet.data.coco.checks import Crowds, read_coco
from transxnet.data.coco.image_files import ImageFinder
from transxnet.data.coco.layout import CocoLayout, Subset, coco_layout, image_folders, lone_subset
from transxnet.data.coco.merging import merged as merged_files
from transxnet.data.coco.records import CocoFile
from transxnet.data.coco.source import MIN_SIDE, CocoSource, Instances
from transxnet.data.coco.stratified import held_out_by_classes
from transxnet.data.description import DataDescription, PartDescription
from transxnet.data.findings import Findings, merged
from transxnet.data.names import is_file, listed
from transxnet.errors import DataError
from transxnet.files import reading, user_path

__all__ = ["CocoData", "CocoSource", "Crowds", "Instances", "open_coco", "open_coco_evaluation", "open_coco_file"]


@dataclass(frozen=True)
class CocoData:
    """Training images, if there are any, and validation images.

    Attributes:
        train: The training images; None if there are only validation images or they are not needed.
        validation: The validation images.
        layout: Where they were found.
        findings: Problems and remarks of all files.
        everything: The images that both were drawn from; None if the data set has a validation part.
    """

    train: CocoSource | None
    validation: CocoSource
    layout: CocoLayout
    findings: Findings
    everything: CocoSource | None = None

    def description(self) -> DataDescription:
        """Layout, parts with their objects by class, and findings."""
        parts = []
        if self.train is not None:
            parts.append(_described("training", self._origin(self.layout.train), self.train))
        origin = self._origin(self.layout.val) if self.everything is None else "a held-out fifth of each class"
        parts.append(_described("validation", origin, self.validation))
        return DataDescription(f"{self.layout.name} ({self.layout.root})", tuple(parts), self.findings)

    def _origin(self, subsets: Sequence[Subset]) -> str:
        paths = [subset.path for subset in subsets]
        return listed([str(path.relative_to(self.layout.root)) for path in paths])


def open_coco(
    data: str,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    crowds: Crowds = "ignore",
) -> CocoData:
    """Open a folder of images with COCO annotations, in COCO's layout or as an annotation tool exports it.

    See :func:`~transxnet.data.coco.layout.coco_layout` for the layouts. Without a file for validation, a fifth of
    the images is held out, by class (:func:`~transxnet.data.coco.stratified.held_out_by_classes`).

    Args:
        data: The folder, or an annotation file.
        seed: Chooses the held-out images if there is no validation file.
        classes: Class names in the order of the labels, such as a network's; by default the file's.
        masks: Whether to check and keep segmentations.
        crowds: Whether annotations with ``iscrowd: 1`` are objects.

    Raises:
        DataError: If there are no annotations or images, annotations cannot be read, or the classes
            differ from ``classes`` or between the parts.
    """
    layout = coco_layout(data)
    findings = Findings()
    if layout.unused:
        names = listed([subset.name for subset in layout.unused])
        findings.remark(f"{names} is not used: {layout.val[0].name} is the validation part")
    with _no_garbage_collection():
        train = _part(layout, layout.train, classes, masks, crowds) if layout.train else None
        known = classes or (train.class_names if train else None)
        validation = _part(layout, layout.val, known, masks, crowds) if layout.val else None
    findings = merged([findings, *(source.findings for source in (train, validation) if source is not None)])
    everything = None if validation else train
    if validation is None:
        assert train is not None
        train, validation = _split(train, layout, seed)
    _report_parts(train, validation, findings)
    return CocoData(train, validation, layout, findings, everything)


def open_coco_evaluation(
    data: str, *, classes: Sequence[str], masks: bool = True, crowds: Crowds = "ignore"
) -> CocoData:
    """Open images to evaluate a network on: the validation part, or all images of an annotation file.

    Of a folder without a validation part, these are the images that :func:`open_coco` holds out for seed 0.

    Args:
        data: As for :func:`open_coco`.
        classes: The network's class names; the file may lack some.
        masks: As for :func:`open_coco`.
        crowds: As for :func:`open_coco`.

    Raises:
        DataError: As for :func:`open_coco`.
    """
    layout = coco_layout(data)
    whole = is_file(user_path(data))
    if not layout.val and not whole:
        opened = open_coco(data, classes=classes, masks=masks, crowds=crowds)
        opened.findings.remark(
            f"only the held-out fifth is evaluated, {len(opened.validation):,} images; give the path of the annotation "
            f"file to evaluate all, such as {layout.train[0].path}"
        )
        return opened
    with _no_garbage_collection():
        validation = _part(layout, layout.val or layout.train, classes, masks, crowds)
    _report_parts(None, validation, validation.findings)
    return CocoData(None, validation, replace(layout, val=layout.val or layout.train), validation.findings)


def open_coco_file(
    json_path: str | Path,
    images_folder: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    crowds: Crowds = "ignore",
) -> CocoSource:
    """Open the images of one annotation file.

    Args:
        json_path: The file.
        images_folder: Folder of the images; by default the usual folders are searched.
        classes: As for :func:`open_coco`.
        masks: As for :func:`open_coco`.
        crowds: As for :func:`open_coco`.

    Raises:
        DataError: As for :func:`open_coco`.
    """
    path = user_path(json_path)
    root, subset = lone_subset(path)
    folders = [user_path(images_folder)] if images_folder else image_folders(subset, root)
    finder = ImageFinder(path, folders, folders[0] if images_folder else root, subset.part)
    with _no_garbage_collection():
        return _source(_read(path, finder, classes, masks, crowds))


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


def _part(
    layout: CocoLayout, subsets: Sequence[Subset], classes: Sequence[str] | None, masks: bool, crowds: Crowds
) -> CocoSource:
    """The images of one part, from one annotation file or several."""
    files = []
    for subset in subsets:
        finder = ImageFinder(subset.path, image_folders(subset, layout.root), layout.root, subset.part)
        files.append(_read(subset.path, finder, classes, masks, crowds))
    return _source(files[0] if len(files) == 1 else merged_files([subset.path for subset in subsets], files))


def _read(path: Path, finder: ImageFinder, classes: Sequence[str] | None, masks: bool, crowds: Crowds) -> CocoFile:
    with reading(path, DataError):
        content = read_coco(path, finder, masks=masks, crowds=crowds)
        return content if classes is None else ordered(path, content, classes)


def _source(content: CocoFile) -> CocoSource:
    return CocoSource(*content)


def _split(everything: CocoSource, layout: CocoLayout, seed: int) -> tuple[CocoSource, CocoSource]:
    """Hold out a fifth of the images of each class."""
    if len(everything) < 2:
        raise DataError(f"{layout.train[0].path} has a single image: nothing can be held out for validation")
    annotations = everything.annotations
    real = ~annotations.crowds
    classes = [
        set(annotations.labels[rows][real[rows]].tolist()) for rows in map(annotations.of, range(len(everything)))
    ]
    held = held_out_by_classes(classes, seed)
    train, validation = (everything.subset(np.flatnonzero(part).tolist()) for part in (~held, held))
    return train, validation


def _report_parts(train: CocoSource | None, validation: CocoSource, findings: Findings) -> None:
    """Report images and objects that are not trained on, and parts without objects."""
    for image in train.images if train else ():
        if min(image.height, image.width) < MIN_SIDE:
            findings.add(f"training images with a side below {MIN_SIDE} pixels (not trained on)", image.file_name)
    for row in train.narrow_rows() if train else ():
        name = f"annotation {train.annotations.ids[row]}"  # type: ignore[union-attr]
        findings.add("training objects narrower than a pixel (not trained on)", name)
    if validation.annotations.crowds.all():
        findings.remark("no validation image has an object: there is no average precision, and no best checkpoint")


def _described(name: str, origin: str, source: CocoSource) -> PartDescription:
    counts = Counter(source.annotations.labels[~source.annotations.crowds].tolist())
    by_class = {name: counts[label] for label, name in enumerate(source.class_names)}
    return PartDescription(name, origin, len(source), "objects", by_class)
