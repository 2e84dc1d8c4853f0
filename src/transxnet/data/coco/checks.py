"""Reading COCO annotation files; unusable entries are reported, counted and dropped, or refused."""

from __future__ import annotations

import json
import marshal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from transxnet.data.coco.categories import read_categories, whole
from transxnet.data.coco.image_records import FindFiles, read_images
from transxnet.data.coco.records import Annotations, CocoFile, ImageRecord
from transxnet.data.coco.run_lengths import SegmentationError, area, bounds, checked, is_number, is_whole
from transxnet.data.findings import Findings
from transxnet.errors import DataError
from transxnet.files import read_bytes, reason
from transxnet.text import counted

Crowds = Literal["ignore", "as-objects", "as_objects"]
"""Whether annotations with ``iscrowd: 1`` are neither trained on nor count in evaluation, or are objects."""

_MAX_ID = 2**62
_ROUNDING = 1.0  # pixels by which a box may exceed the image without being clipped
_FEW_CROWDS = 0.1  # share of the annotations; COCO has 0.012


def read_coco(path: Path, find: FindFiles, *, masks: bool = True, crowds: Crowds = "ignore") -> CocoFile:
    """Read the usable contents of an annotation file.

    Args:
        path: The JSON file.
        find: Finds the files of its images.
        masks: Whether to check and keep segmentations.
        crowds: Whether crowds are objects.

    Raises:
        DataError: If the file cannot be read, is not a COCO file of boxes, repeats an image or a class, or none of
            its images exists.
    """
    content = _parsed(path)
    findings = Findings()
    categories = read_categories(path, content, findings)
    entries = content["annotations"]
    images, no_files = read_images(path, content, find, findings)
    reader = _Reader(
        {image.id: index for index, image in enumerate(images)},
        images,
        {category: label for label, category in enumerate(categories)},
        masks,
        crowds,
        findings,
    )
    kept: list[_Annotation] = []
    for index, entry in enumerate(entries):
        try:
            kept.append(reader.read(entry, index))
        except _UnusableError as error:
            findings.add(str(error), _name(entry, index))
    if not kept:
        found = "; ".join(findings.lines())
        raise DataError(f"{path} has no usable annotation{f': {found}' if found else ''}")
    if no_files:
        raise no_files
    reader.report(entries, kept)
    kept.sort(key=lambda each: each.image)
    annotations = _packed(kept, len(images), findings)
    for image in np.flatnonzero(np.diff(annotations.first) == 0).tolist():
        findings.add("images without annotations (evaluated, not trained on)", images[image].file_name)
    return CocoFile(tuple(categories.values()), tuple(categories), images, annotations, findings)


class _UnusableError(ValueError):
    """An annotation to drop; the message is the kind of problem."""


class _Annotation(NamedTuple):
    position: int
    image: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    id: Any
    packed: bytes


def _name(entry: Any, index: int) -> str:
    given = entry.get("id") if isinstance(entry, dict) else None
    return f"annotation at index {index}" if given is None else f"annotation {str(given)[:40]}"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path} is not JSON, or truncated: {error.msg} at {position}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, deep nesting
        raise DataError(f"{path} is not JSON: {reason(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a COCO file: it has a {type(content).__name__}, not an object with images")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"{path} is not a COCO file of boxes: it lacks the list {' and '.join(map(repr, missing))}")
    return content


@dataclass
class _Reader:
    """Reads the annotations of one file.

    Attributes:
        indices: The index of each image by its id.
        images: The images.
        labels: The label of each category by its id.
        masks: Whether to check and keep segmentations.
        crowds: Whether crowds are objects.
        findings: Receives the problems.
        notes: Counts of what is reported at the end.
    """

    indices: Mapping[int, int]
    images: Sequence[ImageRecord]
    labels: Mapping[int, int]
    masks: bool
    crowds: Crowds
    findings: Findings
    notes: Counter[str] = field(default_factory=Counter)

    def read(self, entry: Any, index: int) -> _Annotation:
        image, label = self._references(entry)
        height, width = self.images[image].height, self.images[image].width
        name, segmentation = _name(entry, index), entry.get("segmentation")
        boxless = entry.get("bbox") is None or entry["bbox"] == []
        packed = b""
        if segmentation and (self.masks or boxless):
            try:
                segmentation, partly = checked(segmentation, height, width)
            except SegmentationError as error:
                raise _UnusableError(f"annotations with a {error} (dropped)") from error
            if partly:
                self.findings.add("annotations with polygons of fewer than 3 points (those dropped)", name)
            packed = marshal.dumps(segmentation) if self.masks else b""
        if boxless and segmentation:
            box = self._box(bounds(segmentation, height, width), self.images[image], name)
            self.notes["boxless"] += 1
        else:
            box = self._box(entry.get("bbox"), self.images[image], name)
        size = entry.get("area")
        if not (is_number(size) and size > 0):
            if size is None:
                self.notes["areas"] += 1
            else:
                self.findings.add("annotations whose area is not a number above 0 (computed)", name)
            size = area(segmentation, height, width) if packed else box[2] * box[3]
        crowd = entry.get("iscrowd") in (1, True, "1")
        self.notes["crowds"] += crowd
        crowd = crowd and self.crowds == "ignore"
        return _Annotation(index, image, label, box, float(size), crowd, whole(entry.get("id")), packed)

    def report(self, entries: Sequence[Any], kept: Sequence[_Annotation]) -> None:
        """Add findings on all annotations."""
        findings, notes = self.findings, self.notes
        if notes["ids"]:
            findings.remark(
                f"ids of {counted(notes['ids'], 'annotation')}, given as text or fractions, are read as integers"
            )
        if notes["boxless"]:
            findings.remark(
                f"boxes of {counted(notes['boxless'], 'annotation')} without one are computed from their masks"
            )
        if notes["areas"]:
            findings.remark(
                f"areas of {counted(notes['areas'], 'annotation')} without one are computed from the mask or the box"
            )
        crowds = [each for each in kept if each.crowd]
        if crowds and len(crowds) > _FEW_CROWDS * len(kept):
            kind = (
                "crowds (iscrowd 1: not trained on, ignored in evaluation; --crowds as-objects takes them as objects)"
            )
            for each in crowds:
                findings.add(kind, _name(entries[each.position], each.position))
        elif crowds:
            findings.remark(
                f"{len(crowds):,} of {len(kept):,} annotations are crowds (iscrowd 1): not trained on, ignored in "
                "evaluation; --crowds as-objects takes them as objects"
            )
        elif notes["crowds"]:
            findings.remark(f"{notes['crowds']:,} of {len(kept):,} annotations are crowds taken as objects")
        bare = [each for each in kept if not each.packed and not each.crowd]
        if self.masks and len(bare) < len(kept) - len(crowds):
            kind = "objects without a mask (their boxes are used; --without-mask decides for training on masks)"
            for each in bare:
                findings.add(kind, _name(entries[each.position], each.position))

    def _references(self, entry: Any) -> tuple[int, int]:
        """The indices of an annotation's image and class."""
        if not isinstance(entry, dict):
            raise _UnusableError("annotations that are not objects (dropped)")
        given = entry.get("image_id"), entry.get("category_id")
        image, category = map(whole, given)
        if image is None or image not in self.indices:
            fault = ": image_id is not a whole number" if image is None and given[0] is not None else ""
            raise _UnusableError(f"annotations without an image{fault} (dropped)")
        if category is None and given[1] is not None:
            raise _UnusableError("annotations whose category_id is not a whole number (dropped)")
        if category is None or category not in self.labels:
            raise _UnusableError("annotations of an unknown category (dropped)")
        self.notes["ids"] += not (is_whole(given[0]) and is_whole(given[1]))
        return self.indices[image], self.labels[category]

    def _box(self, box: Any, image: ImageRecord, name: str) -> tuple[float, float, float, float]:
        if box is None or box == []:
            raise _UnusableError("annotations with neither a box nor a mask (dropped)")
        if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
            raise _UnusableError("annotations whose box is not 4 numbers (dropped)")
        x, y, width, height = map(float, box)
        if width <= 0 or height <= 0:
            raise _UnusableError("annotations whose box has no area (dropped)")
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + width, image.width), min(y + height, image.height)
        if left >= right or top >= bottom:
            raise _UnusableError("annotations whose box is outside the image (dropped)")
        if max(left - x, top - y, x + width - right, y + height - bottom) < _ROUNDING:
            return x, y, width, height  # rounding, which evaluation expects unchanged
        self.findings.add("annotations whose box exceeds the image (clipped)", name)
        return left, top, right - left, bottom - top


def _packed(kept: Sequence[_Annotation], images: int, findings: Findings) -> Annotations:
    counts = np.bincount([annotation.image for annotation in kept], minlength=images)
    blocks = [annotation.packed for annotation in kept]
    return Annotations(
        first=np.cumsum([0, *counts], dtype=np.int64),
        boxes=np.array([annotation.box for annotation in kept], np.float64),
        labels=np.array([annotation.label for annotation in kept], np.int64),
        areas=np.array([annotation.area for annotation in kept], np.float64),
        crowds=np.array([annotation.crowd for annotation in kept], np.bool_),
        ids=_numbered(kept, findings),
        packed=np.frombuffer(b"".join(blocks), np.uint8),
        ends=np.cumsum([0, *map(len, blocks)], dtype=np.int64),
    )


def _numbered(kept: Sequence[_Annotation], findings: Findings) -> npt.NDArray[np.int64]:
    """The given ids; repeated ones, and those that mean "none" in evaluation, are replaced."""
    seen: set[int] = set()
    unused = max((each.id for each in kept if _is_id(each.id)), default=0) + 1
    numbers = []
    for each in kept:
        number = each.id
        if not _is_id(number) or number in seen:
            if number != 0:
                name = f"annotation {'without id' if number is None else number} at index {each.position}"
                findings.add("annotations with a missing or repeated id (renumbered)", name)
            number, unused = max(unused, 1), max(unused, 1) + 1
        seen.add(number)
        numbers.append(number)
    return np.array(numbers, np.int64)


def _is_id(number: Any) -> bool:
    return is_whole(number) and 1 <= number < _MAX_ID
