"""Names of files and classes: their natural order, what a name leads to, and which names classes may have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transxnet.errors import DataError
from transxnet.files import reason

MAX_CLASSES = 100_000
"""Classes that a data set may have: a file of a few bytes must not ask for a network of gigabytes."""

MAX_NAME = 1_000
"""Characters of a class's name."""

Key = list[str | tuple[int, str]]


def natural_key(name: str) -> Key:
    """Sorts 2 before 10, whatever the case, as timm does for the names of its data sets."""
    parts: Key = list(re.split(r"(\d+)", name.lower()))
    parts[1::2] = map(_number, re.findall(r"\d+", name.lower()))
    return parts


def _number(digits: str) -> tuple[int, str]:
    """Orders numbers of any length; ``int`` refuses those of thousands of digits."""
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return len(digits), digits


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False for what can be no path, where :meth:`Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether it is a regular file, likewise."""
    return os.path.isfile(path)  # noqa: PTH113


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder, in any order.

    Raises:
        DataError: If it cannot be listed.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {reason(error)}") from error


def class_names_fault(names: Iterable[Any], most: int = MAX_CLASSES) -> str | None:
    """What is wrong with the names of classes that a file holds; None if they are usable.

    Args:
        names: Anything that a file held; read no further than the first mistake.
        most: Classes that there may be.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name:
            return f"a class's name is {str(name)[:80]!r}"
        if len(name) > MAX_NAME:
            return f"a class's name has {len(name):,} characters"
        try:
            name.encode("utf-8", "surrogateescape")  # as the names of files and folders
        except UnicodeEncodeError:
            return f"a class's name is no text: {name!r}"
        if name in seen:
            return f"the class {name!r} is there twice"
        if len(seen) == most:
            return f"there are more than {most:,} classes"
        seen.add(name)
    return None if seen else "there is no class"
