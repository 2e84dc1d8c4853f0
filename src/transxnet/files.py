"""Reading regular files within size limits, and writing files atomically."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from transxnet.errors import ConfigError, TransXNetError
from transxnet.text import printable

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, where making room helps."""

_TEMPORARY = ".transxnet-"
_MAX_REASON = 160

MAX_NAME_BYTES = 255
"""Maximum length of a file name in bytes, on all common file systems."""

MAX_TEXT_BYTES = 16 * 2**20
"""Maximum size of a small text file (a manifest, a summary, class names)."""


def user_path(text: str | os.PathLike[str]) -> Path:
    """A user's path, with ``~`` and ``~user`` expanded.

    Raises:
        ConfigError: If it is empty, contains a NUL character, or names an unknown user.
    """
    name = os.fspath(text)
    if not name or "\0" in name:
        raise ConfigError("a path is empty" if not name else f"{name!r} is not a path: it contains a NUL character")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no such user, or no home folder
        raise ConfigError(f"{name} cannot be expanded: {error}") from error


def open_regular(path: str | os.PathLike[str], *, folder: int | None = None, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading, without blocking on a pipe or a device.

    Args:
        path: The file.
        folder: Descriptor of the folder that relative paths start from; the working folder by default.
        follow_links: Whether the file may be a symbolic link.

    Raises:
        OSError: If it cannot be opened, or is not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | os.PathLike[str]) -> int:
    """Check that a path is a regular file, before a library opens it, and return its size in bytes.

    Raises:
        OSError: If it does not exist or is not a regular file.
    """
    found = Path(path).stat()
    _check_regular(found.st_mode, path)
    return found.st_size


def _check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise OSError(None, f"it is {kind}, not a regular file", os.fspath(path))


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Read a regular file.

    Raises:
        OSError: As for :func:`open_regular`, or if it has more than ``limit`` bytes.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(None, f"it has more than {limit:,} bytes", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], limit: int = MAX_TEXT_BYTES) -> str:
    """Read a regular file as UTF-8, with or without a byte order mark.

    Raises:
        OSError: As for :func:`read_bytes`.
        UnicodeDecodeError: If it is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8-sig")


def read_json(path: str | os.PathLike[str], limit: int = MAX_TEXT_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: As for :func:`read_bytes`.
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(read_text(path, limit))


@contextmanager
def reading(path: str | os.PathLike[str], error: type[TransXNetError], advice: str = "") -> Iterator[None]:
    """Convert any exception of a reader to a one-line error that names the file.

    Args:
        path: The file being read.
        error: Class of the error to raise.
        advice: Advice for the user, if any.

    Raises:
        TransXNetError: Of the class ``error``, for any exception other than a TransXNetError.
    """
    try:
        yield
    except TransXNetError:
        raise
    except PermissionError as cause:
        raise error(f"{path} cannot be read: {reason(cause)}") from cause
    except Exception as cause:  # readers of damaged bytes can raise anything
        raise error(f"{path} cannot be read: {reason(cause)}" + (f"; {advice}" if advice else "")) from cause


def reason(error: BaseException) -> str:
    """The cause of an exception in one short line that is safe to print."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start:,})"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    text = printable(" ".join(str(error).split()))
    return text[: _MAX_REASON - 1] + "…" if len(text) > _MAX_REASON else text or type(error).__name__


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file written there replaces ``path`` on success.

    The temporary name keeps the suffix, since writers choose their format by it. On an error the
    temporary file is removed and ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix if len(os.fsencode(path.suffix)) < MAX_NAME_BYTES // 2 else ""
    descriptor, name = tempfile.mkstemp(f".tmp{suffix}", _TEMPORARY, path.parent)
    temporary = Path(name)
    try:
        os.close(descriptor)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private to their owner
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        with suppress(OSError):  # makes the rename survive a power loss, where folders can be synced
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, names: Sequence[str], obsolete: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; on success the files written there replace those of ``path``, all of them or none.

    A new folder appears as a whole. In one that exists, the old files are moved out before the new ones are moved in,
    and back on an error. If the process is killed in between, the folder lacks the last of ``names``, and the temporary
    folder in it still holds the files.

    Args:
        path: The folder.
        names: Names of the files that are written; the last one is moved out first and moved in last.
        obsolete: Names of files that are removed.

    Raises:
        ConfigError: If the folder holds something other than a file under one of the names; nothing is written then.
    """
    exists = path.is_dir()
    for name in (*names, *obsolete) if exists else ():
        _check_replaceable(path / name)
    inside = path if exists else path.parent
    inside.mkdir(parents=True, exist_ok=True)
    temporary = inside / f"{_TEMPORARY}{secrets.token_hex(4)}.tmp"
    new, old = temporary / "new", temporary / "old"
    try:
        for folder in (temporary, new, old):
            folder.mkdir()
        yield new
        if exists:
            _exchange(path, new, old, names, obsolete)
        else:
            new.rename(path)
    except BaseException:
        if not any(old.glob("*")):  # files that could not be moved back are kept
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISLNK(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise ConfigError(f"{path} is {kind}, not a file that can be replaced: rename or remove it")


def _exchange(path: Path, new: Path, old: Path, names: Sequence[str], obsolete: Collection[str]) -> None:
    """Move files of ``path`` to ``old`` and those of ``new`` to ``path``; undo all of it on an error."""
    present = [name for name in (*reversed(names), *obsolete) if os.path.lexists(path / name)]
    moves = [(path / name, old / name) for name in present] + [(new / name, path / name) for name in names]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            done.append((source, target))
            source.rename(target)
    except BaseException:
        for source, target in reversed(done):
            if os.path.lexists(target) and not os.path.lexists(source):  # unlike in the move that failed
                with suppress(OSError):
                    target.rename(source)
        raise


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes; no other process may be writing to the folder."""
    for path in folder.glob(f"{_TEMPORARY}*.tmp*"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically; characters that are not Unicode are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def cache_folder() -> Path:
    """The package's folder in the user's cache, for files that can be recreated.

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
