"""Files that name the classes of masks: lists of names, tables of values and tables of colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageColor

from transxnet.data.masks.classes import Colors, palette
from transxnet.data.masks.values import COLOR
from transxnet.data.names import class_names_fault, entries_of, is_file, is_folder
from transxnet.errors import DataError
from transxnet.files import read_text, reading

CLASS_FILES = (
    "classes.txt", "labelmap.txt", "class_names.txt", "labels.txt", "_classes.csv", "class_dict.csv",
    "label_colors.txt", "classes.csv",
)  # fmt: skip
"""Names of files that name classes; the first that exists is read."""

_HEX = re.compile(r"(.*\S)\s*#([0-9a-fA-F]{6})$")
_LABEL_MAP = re.compile(r"(.*?)\s*:\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?::.*)?$")
_NAME_COLOR = re.compile(r"(.*?\S)[\s,;:]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})$")
_COLOR_NAME = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;:]+(\S.*)$")
_VALUE_NAME = re.compile(r"(-?\d{1,8})\s*[:=,;\t]\s*(\S.*)$")
_NAME_VALUE = re.compile(r"(.*?\S)\s*[=,;\t]\s*(-?\d{1,8})$")
_IGNORED = ("__ignore__", "_ignore_")

_Row = tuple[str, int | None]  # a name and its code


@dataclass(frozen=True)
class ClassList:
    """Classes as a file names them.

    Attributes:
        path: The file.
        names: In the order of the file.
        colors: (classes, 3), uint8, for drawing.
        values: Pixel value of each class in masks; empty if the file gives none.
        color_codes: Code of the colour of each class; empty if not all have one.
        is_table: Whether the file is a table of colours, so that masks are read by their colours.
    """

    path: Path
    names: tuple[str, ...]
    colors: Colors
    values: tuple[int, ...] = ()
    color_codes: tuple[int, ...] = ()
    is_table: bool = False


def find_class_list(root: Path, limit: int) -> ClassList | None:
    """Read the file that names the classes, in a folder or in one of its folders; None if there is none.

    Raises:
        DataError: As for :func:`read_class_list`.
    """
    folders = [root, *(sorted(path for path in entries_of(root) if is_folder(path)))]
    for folder in folders:
        names = {path.name.lower(): path for path in sorted(entries_of(folder), reverse=True)}
        for name in CLASS_FILES:
            if name in names and (is_file(names[name]) or folder == root):
                return read_class_list(names[name], limit)
    return None


def read_class_list(path: Path, limit: int) -> ClassList:
    """Read class names, one per line, perhaps with a value or a colour.

    Lines are ``name``, ``name #rrggbb``, ``7: name``, or as CVAT writes them, ``name:128,0,0::``; tables with
    commas, semicolons or spaces and a line of headings are read too.

    Args:
        path: The file.
        limit: Maximum number of names.

    Raises:
        DataError: If the file cannot be read, or it has no names, too many, or one twice.
    """
    with reading(path, DataError, "it needs a class name on each line, in UTF-8"):
        lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("# ")]
    if len(lines) > limit + 2:
        raise DataError(f"{path} has {len(lines):,} classes, more than {limit}")
    lines = [line for line in lines if line.partition(":")[0] not in _IGNORED]
    for read in (_label_map, _name_color, _color_name):
        if (rows := _all_rows(lines, read, path.suffix == ".csv")) and any(rows):
            return _list(path, rows, limit, table=True)
    hexes = [_HEX.match(line) for line in lines]
    plain = [match[1] if match else line for match, line in zip(hexes, lines, strict=True)]
    colors = [None if match is None else code_of(*ImageColor.getrgb(f"#{match[2]}")[:3]) for match in hexes]
    for read in (_value_name, _name_value):
        if (rows := _all_rows(plain, read, path.suffix == ".csv")) and any(rows):
            found = _list(path, rows, limit, table=False)
            return found if None in colors or len(colors) != len(rows) else _colored(found, colors)
    found = _list(path, [(name, None) for name in plain], limit, table=False)
    return _colored(found, colors)


def code_of(red: int, green: int, blue: int) -> int:
    """The code of a colour."""
    return COLOR + (red << 16) + (green << 8) + blue


def _list(path: Path, rows: list[_Row], limit: int, *, table: bool) -> ClassList:
    names = [name for name, _ in rows]
    if len(names) > limit:
        raise DataError(f"{path} has {len(names):,} classes, more than {limit}")
    if fault := class_names_fault(names):
        raise DataError(f"{path}: {fault}; it needs a class name on each line")
    codes = tuple(code for _, code in rows if code is not None)
    kind = "colour" if table else "value"
    if len(set(codes)) < len(codes):
        twice = next(name for index, (name, code) in enumerate(rows) if code in codes[:index])
        raise DataError(f"{path}: {twice!r} has the {kind} of another class; each needs its own")
    found = ClassList(path, tuple(names), palette(len(names)))
    if table:
        return _colored(found, list(codes), is_table=True)
    return ClassList(path, found.names, found.colors, values=codes)


def _colored(found: ClassList, codes: list[int | None], *, is_table: bool = False) -> ClassList:
    colors = found.colors.copy()
    for index, code in enumerate(codes):
        if code is not None:
            colors[index] = [code >> shift & 255 for shift in (16, 8, 0)]
    known = [code for code in codes if code is not None]
    complete = tuple(known) if len(known) == len(set(known)) == len(found.names) else ()
    return ClassList(found.path, found.names, colors, found.values, complete, is_table)


def _all_rows(lines: list[str], read: Callable[[str], _Row | None], headed: bool) -> list[_Row]:
    """The rows of a table, whose first line may be headings; nothing if a line is not a row."""
    rows = [read(line) for line in lines]
    if rows and rows[0] is None and (headed or len(rows) > 2) and _is_heading(lines[0]):
        rows = rows[1:]
    found = [row for row in rows if row is not None]
    return found if len(found) == len(rows) else []


def _is_heading(line: str) -> bool:
    words = set(re.findall("[a-z]+", line.lower()))
    return bool(words & {"r", "red", "value", "pixel", "id", "color", "colour", "label"})


def _label_map(line: str) -> _Row | None:
    return _colored_row(match.groups()) if (match := _LABEL_MAP.match(line)) else None


def _name_color(line: str) -> _Row | None:
    return _colored_row(match.groups()) if (match := _NAME_COLOR.match(line)) else None


def _color_name(line: str) -> _Row | None:
    match = _COLOR_NAME.match(line)
    return _colored_row((match[4], match[1], match[2], match[3])) if match else None


def _colored_row(parts: tuple[str, ...]) -> _Row | None:
    levels = [int(part) for part in parts[1:]]
    return (parts[0], code_of(*levels)) if parts[0] and max(levels) <= 255 else None


def _value_name(line: str) -> _Row | None:
    match = _VALUE_NAME.match(line)
    return (match[2], int(match[1])) if match else None


def _name_value(line: str) -> _Row | None:
    match = _NAME_VALUE.match(line)
    return (match[1], int(match[2])) if match else None


def voc_palette() -> tuple[int, ...]:
    """Codes of Pascal VOC's 256 colours: the bits of an index, in turn, are the high bits of red, green and blue."""
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + shift)) & 1) << (7 - bit) for bit in range(8)) for shift in range(3)]
    red, green, blue = (np.asarray(channel) for channel in channels)
    return tuple((COLOR + (red << 16) + (green << 8) + blue).tolist())


VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Pascal VOC's classes in the order of their values."""
