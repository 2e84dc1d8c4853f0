"""Names of files and classes: natural order, kinds of files, lists for messages, and checks of class names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transxnet.errors import DataError
from transxnet.files import reason

MAX_CLASSES = 100_000
"""Maximum number of classes of a data set, so that a small file cannot request a network of gigabytes."""

MAX_NAME = 1_000
"""Maximum length of a class name in characters."""

SYSTEM_FILES = frozenset({".DS_Store", ".directory", ".localized", "Thumbs.db", "desktop.ini"})
"""Files of file managers."""

_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)

Key = tuple[list[str | tuple[int, str]], str]


def natural_key(name: str) -> Key:
    """Sort key that puts 2 before 10 and ignores case, as timm does for its data sets; equal names by their characters.

    Digits that are no decimal digits, such as ² and ①, are characters.
    """
    parts: list[str | tuple[int, str]] = list(re.split(r"(\d+)", name.lower()))
    parts[1::2] = map(_number, re.findall(r"\d+", name.lower()))
    return parts, name


def _number(digits: str) -> tuple[int, str]:
    """Sort key of a number of any length; ``int`` refuses thousands of digits."""
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return len(digits), digits


def name_key(name: str) -> str:
    """A name for comparison: file systems and archives store "é" as one character or as two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_names(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two lists of names are the same, in any Unicode form."""
    return [name_key(name) for name in names] == [name_key(name) for name in others]


def matched_names(names: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Find names among known ones: in any Unicode form, and in another case if that leaves a single one.

    Args:
        names: The names to look up.
        known: The known names.

    Returns:
        Name to known name; those that were not found are left out.
    """
    exact = {name: name for name in known}
    composed = _unique((name_key(name), name) for name in known)
    folded = _unique((name_key(name).casefold(), name) for name in known)
    found = {}
    for name in names:
        match = exact.get(name) or composed.get(name_key(name)) or folded.get(name_key(name).casefold())
        if match is not None:
            found[name] = match
    return found


def _unique(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The pairs as a mapping, without keys that occur twice."""
    found: dict[str, str] = {}
    repeated = set()
    for key, name in pairs:
        if found.setdefault(key, name) != name:
            repeated.add(key)
    return {key: name for key, name in found.items() if key not in repeated}


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden or of an operating system, and never holds a person's images."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


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
