"""Joining several COCO annotation files of one part."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from transxnet.data.coco.records import Annotations, CocoFile
from transxnet.data.findings import merged as findings_of_all
from transxnet.errors import DataError


def merged(paths: Sequence[Path], files: Sequence[CocoFile]) -> CocoFile:
    """The images of several annotation files; classes are joined by name, and ids that clash are replaced.

    Args:
        paths: The files, for messages.
        files: Their contents.

    Raises:
        DataError: If two files annotate the same image: they are versions of one file.
    """
    seen: dict[str, int] = {}
    for number, file in enumerate(files):
        for image in file.images:
            if seen.setdefault(os.path.realpath(image.path), number) != number:
                given = ", ".join(path.name for path in paths[:5])
                raise DataError(
                    f"{paths[0].parent} has several annotation files for one part: {given}; they annotate the same "
                    f"image, such as {image.file_name}: give the path of one file"
                )
    findings = findings_of_all(file.findings for file in files)
    ids = _category_ids(files)
    names = list(ids)
    labels = {name: label for label, name in enumerate(names)}
    images = [image for file in files for image in file.images]
    if len({image.id for image in images}) < len(images):
        images = [image._replace(id=number) for number, image in enumerate(images, 1)]
        findings.remark(f"image ids of {len(files)} annotation files clash and are renumbered")
    parts = [
        replace(file.annotations, labels=np.array([labels[name] for name in file.class_names])[file.annotations.labels])
        for file in files
    ]
    return CocoFile(tuple(names), tuple(ids.values()), images, _joined(parts), findings)


def _category_ids(files: Sequence[CocoFile]) -> dict[str, int]:
    """The ids of all classes by name: those of the first file that has them, in ascending order, if they are free."""
    ids: dict[str, int] = {}
    given: set[int] = set()
    taken = {number for file in files for number in file.category_ids}
    unused = (number for number in itertools.count(1) if number not in taken)
    for file in files:
        for name, number in zip(file.class_names, file.category_ids, strict=True):
            if name not in ids:
                ids[name] = next(unused) if number in given else number
                given.add(number)
    return dict(sorted(ids.items(), key=lambda each: each[1]))


def _joined(parts: Sequence[Annotations]) -> Annotations:
    counts = np.concatenate([np.diff(part.first) for part in parts])
    lengths = np.concatenate([np.diff(part.ends) for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    unique = len(np.unique(ids)) == len(ids)
    return Annotations(
        first=np.cumsum([0, *counts], dtype=np.int64),
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        areas=np.concatenate([part.areas for part in parts]),
        crowds=np.concatenate([part.crowds for part in parts]),
        ids=ids if unique else np.arange(1, len(ids) + 1, dtype=np.int64),
        packed=np.concatenate([part.packed for part in parts]),
        ends=np.cumsum([0, *lengths], dtype=np.int64),
    )
