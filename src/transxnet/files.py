"""Files that are never seen half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transxnet.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; what is written there replaces ``path`` when complete.

    The temporary name keeps the suffix, since writers choose their format by it. On an error the
    temporary file is removed and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; nobody else may be writing there."""
    for path in folder.glob(".*.tmp*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing the old one at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """Where what can be made again is kept: transxnet/ in the user's cache.

    A relative XDG_CACHE_HOME is ignored, as the XDG specification asks.

    Raises:
        ConfigError: If the user has no home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "transxnet"
    try:
        home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
    except RuntimeError:  # a user without an entry in the password database
        home = Path()
    if not home.is_absolute() or not home.is_dir():
        raise ConfigError("there is no home folder for a cache: set XDG_CACHE_HOME to the path of a folder")
    return home / ".cache" / "transxnet"
