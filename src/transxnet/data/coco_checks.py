"""Reading COCO annotation files; unusable entries are reported, counted and dropped, or refused."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transxnet.data.coco_records import Annotations, CocoFile, ImageRecord
from transxnet.data.findings import Findings
from transxnet.data.images import MAX_PIXELS
from transxnet.data.names import class_names_fault
from transxnet.data.run_lengths import SegmentationError, area, checked, is_number, is_whole
from transxnet.errors import DataError
from transxnet.files import read_bytes, reason

_MAX_CATEGORIES = 20_000  # a detector's outputs grow with their number
_MAX_FILE_NAME = 4096  # characters; the maximum length of a path
_MAX_ID = 2**62
_ROUNDING = 1.0  # pixels by which a box may exceed the image without being clipped


def read_coco(path: Path, *, masks: bool = True) -> CocoFile:
    """Read the usable contents of an annotation file.

    Args:
        path: The JSON file.
        masks: Whether to check and keep segmentations.

    Raises:
        DataError: If the file cannot be read, is not a COCO file of boxes, or repeats an image or a class.
    """
    content = _parsed(path)
    findings = Findings()
    categories = _categories(path, content, findings)
    images = _images(path, content["images"], findings)
    image_indices = {image.id: index for index, image in enumerate(images)}
    labels = {category: label for label, category in enumerate(categories)}
    kept: list[tuple[int, int, _Annotation]] = []
    for index, entry in enumerate(content["annotations"]):
        name = _name(entry, index)
        try:
            image, label = _references(entry, image_indices, labels)
            kept.append((image, label, _annotation(entry, images[image], masks, name, findings)))
        except _UnusableError as error:
            findings.add(str(error), name)
    if not kept:
        found = "; ".join(findings.lines())
        raise DataError(f"{path} has no usable annotation{f': {found}' if found else ''}")
    kept.sort(key=lambda each: each[0])
    annotations = _packed(kept, len(images), findings)
    for image in np.flatnonzero(np.diff(annotations.first) == 0).tolist():
        findings.add("images without annotations (evaluated, not trained on)", images[image].file_name)
    return CocoFile(tuple(categories.values()), tuple(categories), images, annotations, findings)


class _UnusableError(ValueError):
    """An annotation to drop; the message is the kind of problem."""


class _Annotation(NamedTuple):
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


def _categories(path: Path, content: Mapping[str, Any], findings: Findings) -> dict[int, str]:
    """Category names by id, in ascending order."""
    categories: dict[int, str] = {}
    names: set[str] = set()
    entries = _without_group(content, findings)
    if len(entries) > _MAX_CATEGORIES:
        raise DataError(f"{path} has {len(entries):,} categories, more than {_MAX_CATEGORIES:,}")
    for entry in entries:
        if not isinstance(entry, dict) or not is_whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise DataError(f"{path}: a category needs an integer id and a name, not {str(entry)[:80]}")
        if entry["id"] in categories:
            raise DataError(f"{path}: two categories have the id {entry['id']}; ids must be unique")
        if entry["name"] in names:
            raise DataError(f"{path}: two categories are named {entry['name'][:80]!r}; names must be unique")
        categories[entry["id"]] = entry["name"]
        names.add(entry["name"])
    if not categories:
        raise DataError(f"{path} has no categories")
    if fault := class_names_fault(names):
        raise DataError(f"{path}: {fault}")
    return dict(sorted(categories.items()))


def _without_group(content: Mapping[str, Any], findings: Findings) -> list[Any]:
    """The categories without Roboflow's first one, which groups the others and is not used by annotations."""
    categories: list[Any] = content["categories"]
    first = categories[0] if categories else None
    if not isinstance(first, dict) or first.get("id") != 0 or first.get("supercategory") != "none":
        return categories
    grouped = any(isinstance(other, dict) and other.get("supercategory") == first.get("name") for other in categories)
    used = any(isinstance(entry, dict) and entry.get("category_id") == 0 for entry in content["annotations"])
    if not grouped or used:
        return categories
    findings.add("category that only groups the others (dropped)", str(first.get("name")))
    return categories[1:]


def _images(path: Path, entries: Sequence[Any], findings: Findings) -> list[ImageRecord]:
    images: dict[int, ImageRecord] = {}
    for index, entry in enumerate(entries):
        record = _record(entry)
        if record is None:
            findings.add("image records without a usable id, file name or size (dropped)", f"at index {index}")
        elif record.id in images:
            raise DataError(
                f"{path}: two images have the id {record.id}: {images[record.id].file_name} and {record.file_name}; "
                "their annotations cannot be distinguished"
            )
        else:
            images[record.id] = record
    if not images:
        raise DataError(f"{path} has no usable image (id, file_name, height, width)")
    return list(images.values())


def _record(entry: Any) -> ImageRecord | None:
    if not isinstance(entry, dict):
        return None
    number, name, height, width = (entry.get(key) for key in ("id", "file_name", "height", "width"))
    if not is_whole(number) or not isinstance(name, str) or not _is_file_name(name):
        return None
    if not is_number(height) or not is_number(width) or height < 1 or width < 1 or height * width > MAX_PIXELS:
        return None
    return ImageRecord(number, name, name, int(height), int(width))


def _is_file_name(name: str) -> bool:
    with suppress(UnicodeEncodeError):
        name.encode("utf-8", "surrogateescape")  # how Python represents file names that are not Unicode
        return 0 < len(name) <= _MAX_FILE_NAME and "\0" not in name
    return False


def _references(entry: Any, images: Mapping[int, int], labels: Mapping[int, int]) -> tuple[int, int]:
    """The indices of an annotation's image and class."""
    if not isinstance(entry, dict):
        raise _UnusableError("annotations that are not objects (dropped)")
    image, category = entry.get("image_id"), entry.get("category_id")
    if not is_whole(image) or image not in images:
        raise _UnusableError("annotations without an image (dropped)")
    if not is_whole(category) or category not in labels:
        raise _UnusableError("annotations of an unknown category (dropped)")
    return images[image], labels[category]


def _annotation(
    entry: Mapping[str, Any], image: ImageRecord, masks: bool, name: str, findings: Findings
) -> _Annotation:
    box = _box(entry.get("bbox"), image, name, findings)
    packed, segmentation = b"", entry.get("segmentation")
    if masks and segmentation:
        try:
            segmentation, partly = checked(segmentation, image.height, image.width)
        except SegmentationError as error:
            raise _UnusableError(f"annotations with a {error} (dropped)") from error
        if partly:
            findings.add("annotations with polygons of fewer than 3 points (those dropped)", name)
        packed = marshal.dumps(segmentation)
    size = entry.get("area")
    if not (is_number(size) and size > 0):
        findings.add("annotations without area (computed from the mask or the box)", name)
        size = area(segmentation, image.height, image.width) if packed else box[2] * box[3]
    return _Annotation(box, float(size), entry.get("iscrowd") in (1, True), entry.get("id"), packed)


def _box(box: Any, image: ImageRecord, name: str, findings: Findings) -> tuple[float, float, float, float]:
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
    findings.add("annotations whose box exceeds the image (clipped)", name)
    return left, top, right - left, bottom - top


def _packed(kept: Sequence[tuple[int, int, _Annotation]], images: int, findings: Findings) -> Annotations:
    owners, labels, annotations = zip(*kept, strict=True)
    counts = np.bincount(owners, minlength=images)
    blocks = [annotation.packed for annotation in annotations]
    return Annotations(
        first=np.cumsum([0, *counts], dtype=np.int64),
        boxes=np.array([annotation.box for annotation in annotations], np.float64),
        labels=np.array(labels, np.int64),
        areas=np.array([annotation.area for annotation in annotations], np.float64),
        crowds=np.array([annotation.crowd for annotation in annotations], np.bool_),
        ids=_numbered([annotation.id for annotation in annotations], findings),
        packed=np.frombuffer(b"".join(blocks), np.uint8),
        ends=np.cumsum([0, *map(len, blocks)], dtype=np.int64),
    )


def _numbered(ids: Sequence[Any], findings: Findings) -> npt.NDArray[np.int64]:
    """The given ids; repeated ones, and those that mean "none" in evaluation, are replaced."""
    seen: set[int] = set()
    unused = max((number for number in ids if _is_id(number)), default=0) + 1
    numbers = []
    for number in ids:
        if not _is_id(number) or number in seen:
            if number != 0:
                name = f"annotation {str(number)[:40]}"
                findings.add("annotations with a missing or repeated id (renumbered)", name)
            number, unused = max(unused, 1), max(unused, 1) + 1
        seen.add(number)
        numbers.append(number)
    return np.array(numbers, np.int64)


def _is_id(number: Any) -> bool:
    return is_whole(number) and 1 <= number < _MAX_ID
