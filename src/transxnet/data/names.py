"""Names of files and classes: natural order, kinds of files, lists for messages, and checks of class names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transxnet.errors import DataError
from transxnet.files import reason

MAX_CLASSES = 100_000
"""Maximum number of classes of a data set, so that a small file cannot request a network of gigabytes."""

MAX_NAME = 1_000
"""Maximum length of a class name in characters."""

Key = list[str | tuple[int, str]]


def natural_key(name: str) -> Key:
    """Sort key that puts 2 before 10 and ignores case, as timm does for its data sets."""
    parts: Key = list(re.split(r"(\d+)", name.lower()))
    parts[1::2] = map(_number, re.findall(r"\d+", name.lower()))
    return parts


def _number(digits: str) -> tuple[int, str]:
    """Sort key of a number of any length; ``int`` refuses thousands of digits."""
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return len(digits), digits


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for invalid paths, where :meth:`Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a path is a regular file; False for invalid paths."""
    return os.path.isfile(path)  # noqa: PTH113


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and the number of others, for a message."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def entries_of(folder: Path) -> list[Path]:
    """List a folder, in any order.

    Raises:
        DataError: If it cannot be listed.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {reason(error)}") from error


def class_names_fault(names: Iterable[Any], limit: int = MAX_CLASSES) -> str | None:
    """A problem of class names from a file; None if they are valid.

    Args:
        names: Values of any type; read up to the first problem.
        limit: Maximum number of classes.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name:
            return f"a class name is {str(name)[:80]!r}"
        if len(name) > MAX_NAME:
            return f"a class name has {len(name):,} characters"
        try:
            name.encode("utf-8", "surrogateescape")  # as for names of files and folders
        except UnicodeEncodeError:
            return f"a class name is not valid text: {name!r}"
        if name in seen:
            return f"the class {name!r} is listed twice"
        if len(seen) == limit:
            return f"there are more than {limit:,} classes"
        seen.add(name)
    return None if seen else "there are no classes"
