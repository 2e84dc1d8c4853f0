"""Image records of COCO annotation files, with the files and sizes that they are for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transxnet.data.coco.categories import repeated, whole
from transxnet.data.coco.image_files import Found, Header, header
from transxnet.data.coco.records import ImageRecord
from transxnet.data.coco.run_lengths import is_number
from transxnet.data.findings import Findings
from transxnet.data.images.reading import MAX_PIXELS
from transxnet.errors import DataError

FindFiles = Callable[[Sequence[str], Findings], Found]
"""Finds the path of each image by its name; raises DataError if none exists."""

_MAX_FILE_NAME = 4096  # characters; the maximum length of a path
_HEADERS = 1000  # images whose orientation is looked at
_UNUSABLE = "image records without a usable id, file name or size (dropped)"
_ROUNDING = 1.0  # pixels by which a box may exceed the image

Frame = tuple[int, int]


def read_images(
    path: Path, content: Mapping[str, Any], find: FindFiles, findings: Findings
) -> tuple[list[ImageRecord], DataError | None]:
    """The usable image records, with the path and the size of the image that was annotated.

    Sizes that are missing are read from the files. Of an image with an EXIF orientation, boxes are for the pixels as
    stored or upright: the record's size decides, unless more boxes are outside it than outside the other.

    Args:
        path: The annotation file, for messages.
        content: Its content, with lists of images and annotations.
        find: Finds the files.
        findings: Receives the problems.

    Returns:
        The images in the file's order, and the error if none of their files exists.

    Raises:
        DataError: If there are none, or two have the same id.
    """
    images = _records(path, content["images"], findings)
    try:
        files = find([image.file_name for image in images], findings)
    except DataError as error:
        return [image for image in images if image.height] or images, error
    images = [image._replace(path=file) for image, file in zip(images, files.paths, strict=True)]
    boxes = _boxes_of(images, content["annotations"])
    headers = {index: found for index in _looked_at(images, boxes) if (found := header(images[index].path))}
    sized: list[ImageRecord] = []
    for index, image in enumerate(images):
        frame = _frame(image, headers.get(index), boxes.get(index, []))
        if frame is None:
            findings.add(_UNUSABLE, image.file_name)
        else:
            sized.append(image._replace(height=frame[0], width=frame[1]))
            if index in files.missing:
                findings.add("image files that do not exist, or whose name fits several", image.file_name)
    if not sized:
        raise DataError(f"{path} has no usable image (id, file_name, height, width): {'; '.join(findings.lines())}")
    if unsized := sum(not image.height for image in images) - (len(images) - len(sized)):
        findings.remark(f"sizes of {unsized:,} images are read from their files: the annotations have none")
    _report_orientation({image.id: image for image in sized}, images, headers, boxes, findings)
    return sized, None


def _records(path: Path, entries: Sequence[Any], findings: Findings) -> list[ImageRecord]:
    """The records; height and width are 0 where they are not given."""
    images: dict[int, ImageRecord] = {}
    textual = 0
    for index, entry in enumerate(entries):
        record = _record(entry)
        if record is None:
            findings.add(_UNUSABLE, f"at index {index}")
        elif record.id in images:
            ids = [whole(each.get("id")) if isinstance(each, dict) else None for each in entries]
            raise DataError(
                f"{path}: two images have the id {record.id}: {images[record.id].file_name} and {record.file_name}; "
                f"their annotations cannot be distinguished ({repeated(ids)})"
            )
        else:
            images[record.id] = record
            textual += type(entry["id"]) is not int
    if not images:
        found = f": {'; '.join(findings.lines())}" if findings.counts else ""
        raise DataError(f"{path} has no usable image (id, file_name, height, width){found}")
    if textual:
        findings.remark(f"ids of {textual:,} images, given as text or fractions, are read as integers")
    return list(images.values())


def _record(entry: Any) -> ImageRecord | None:
    if not isinstance(entry, dict):
        return None
    number, name = whole(entry.get("id")), entry.get("file_name")
    if number is None or not isinstance(name, str) or not _is_file_name(name):
        return None
    height, width = (_side(entry.get(key)) for key in ("height", "width"))
    if height is None or width is None or height * width > MAX_PIXELS:
        return None
    return ImageRecord(number, name, name, *((height, width) if height and width else (0, 0)))


def _side(value: Any) -> int | None:
    """A length in pixels; 0 if there is none, None if it is not a length."""
    if value is None or value == 0:
        return 0
    number = whole(value) if isinstance(value, str) else int(value) if is_number(value) else None
    return number if number is not None and number >= 1 else None


def _is_file_name(name: str) -> bool:
    with suppress(UnicodeEncodeError):
        name.encode("utf-8", "surrogateescape")  # how Python represents file names that are not Unicode
        return 0 < len(name) <= _MAX_FILE_NAME and "\0" not in name
    return False


def _boxes_of(images: Sequence[ImageRecord], entries: Sequence[Any]) -> dict[int, list[tuple[float, float, Any]]]:
    """Right and bottom of the boxes, and the size of their run lengths, of each image."""
    indices = {image.id: index for index, image in enumerate(images)}
    found: dict[int, list[tuple[float, float, Any]]] = defaultdict(list)
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        box, mask = entry.get("bbox"), entry.get("segmentation")
        index = indices.get(whole(entry.get("image_id")))  # type: ignore[arg-type]
        if index is None or not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            continue
        found[index].append((box[0] + box[2], box[1] + box[3], mask.get("size") if isinstance(mask, dict) else None))
    return found


def _outside(boxes: Sequence[tuple[float, float, Any]], frame: Frame) -> int:
    """Number of boxes that exceed an image of a height and width, or whose run lengths are for another size."""
    height, width = frame
    return sum(
        right >= width + _ROUNDING or bottom >= height + _ROUNDING or (size is not None and size != [height, width])
        for right, bottom, size in boxes
    )


def _looked_at(images: Sequence[ImageRecord], boxes: Mapping[int, Any]) -> list[int]:
    """Images without a size or with boxes outside, and some of the others."""
    sampled = range(0, len(images), -(-len(images) // _HEADERS))
    doubtful = [
        index
        for index, image in enumerate(images)
        if not image.height or _outside(boxes.get(index, ()), (image.height, image.width))
    ]
    return sorted({*sampled, *doubtful})


def _frame(image: ImageRecord, found: Header | None, boxes: Sequence[tuple[float, float, Any]]) -> Frame | None:
    """Height and width of the annotated image; None if they are not known."""
    given = (image.height, image.width) if image.height else None
    if found is None:
        return given
    stored = found.height, found.width
    if given not in (None, stored, found.upright):
        return given
    first = given or found.upright
    second = stored if first == found.upright else found.upright
    return second if _outside(boxes, second) < _outside(boxes, first) else first


def _report_orientation(
    sized: Mapping[int, ImageRecord],
    images: Sequence[ImageRecord],
    headers: Mapping[int, Header],
    boxes: Mapping[int, Sequence[tuple[float, float, Any]]],
    findings: Findings,
) -> None:
    turned = [index for index, found in headers.items() if found.turn is not None and images[index].id in sized]
    if not turned:
        return
    frames = {index: (sized[images[index].id].height, sized[images[index].id].width) for index in turned}
    stored = sum(frames[index] == (headers[index].height, headers[index].width) for index in turned)
    upright = sum(frames[index] == headers[index].upright for index in turned) - sum(
        headers[index].upright == (headers[index].height, headers[index].width) for index in turned
    )
    outside = sum(_outside(boxes.get(index, ()), frames[index]) for index in turned)
    of = "" if len(images) <= _HEADERS else f" of {len(headers):,} that were looked at"
    findings.remark(
        f"{len(turned):,} images{of} have an EXIF orientation: {stored:,} are annotated as stored, {upright:,} "
        f"upright; {outside:,} of their boxes are outside the image. Networks are shown upright images"
    )
