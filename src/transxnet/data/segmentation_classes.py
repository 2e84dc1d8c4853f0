"""Classes of pixels: names, order and colours."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from transxnet.data.names import class_names_fault, listed
from transxnet.errors import DataError
from transxnet.files import read_text, reading

Colors = npt.NDArray[np.uint8]


def palette(count: int) -> Colors:
    """Distinguishable colours (count, 3): hues a golden angle apart, in three lightnesses."""
    index = np.arange(count)
    hue = (0.58 + index * 0.61803398875) % 1
    value = np.array([1.0, 0.72, 0.5])[index % 3]
    saturation = np.array([0.85, 0.6, 0.95])[index // 3 % 3]
    offset = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6  # HSV to RGB
    rgb = value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(offset, 4 - offset), 0, 1))
    colors: Colors = np.round(rgb * 255).astype(np.uint8)
    return colors


def ade20k_classes() -> tuple[list[str], Colors]:
    """ADE20K's 150 class names and colours."""
    content = _ade20k()
    return list(content[0]), np.array(content[1], np.uint8)


@cache
def _ade20k() -> tuple[list[str], list[list[int]]]:
    text = resources.files("transxnet.data").joinpath("ade20k.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return content["classes"], content["palette"]


def read_classes(path: Path, limit: int) -> tuple[list[str], Colors]:
    """Read class names, one per line, each optionally followed by a colour (``#rrggbb``).

    Args:
        path: The file.
        limit: Maximum number of names.

    Raises:
        DataError: If the file cannot be read, or it has no names, too many, or one twice.
    """
    with reading(path, DataError, "it needs a class name on each line, in UTF-8"):
        lines = [line.strip() for line in read_text(path).splitlines()]
    lines = list(filter(None, lines))
    if len(lines) > limit:
        raise DataError(f"{path} has {len(lines):,} classes, more than {limit}")
    names: list[str] = []
    colors = palette(len(lines))
    for line in lines:
        name, found, color = line.rpartition("#")
        if found and re.fullmatch("[0-9a-fA-F]{6}", color) and name.strip():
            colors[len(names)] = ImageColor.getrgb(f"#{color}")
            line = name.strip()
        names.append(line)
    if fault := class_names_fault(names):
        raise DataError(f"{path}: {fault}; it needs a class name on each line")
    return names, colors


def class_order(root: Path, names: list[str], classes: list[str]) -> tuple[int, ...]:
    """The index of each of the folder's classes in ``classes``.

    Raises:
        DataError: If the classes differ.
    """
    unknown = [name for name in names if name not in classes]
    missing = [name for name in classes if name not in names]
    if unknown or missing:
        parts = [f"has {listed(unknown)}"] * bool(unknown) + [f"lacks {listed(missing)}"] * bool(missing)
        raise DataError(f"{root}: its classes are not the {len(classes)} expected: it {' and '.join(parts)}")
    return tuple(classes.index(name) for name in names)
