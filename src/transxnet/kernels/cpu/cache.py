"""Compiled kernels in the user's cache, which are read only if no other user can have written them.

An entry is a library and a file with its size and SHA-256 beside it. The folder is created with the permissions 0700,
the files with 0600.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transxnet.errors import ConfigError
from transxnet.files import cache_folder, open_regular
from transxnet.kernels.cpu.shared_library import MAX_BYTES

_RECORD = re.compile(rb"(\d{1,9}) ([0-9a-f]{64})\n")


def read(name: str) -> bytes | None:
    """Read and verify a library; None if there is none, or it cannot be trusted.

    Files behind symbolic links, files of users other than this one and root, files that others can write, and files
    that differ from the recorded size or digest are not trusted.
    """
    try:
        with _opened(cache_folder() / "kernels") as folder:
            record = _RECORD.fullmatch(_read(_record_name(name), folder, 100))
            library = _read(name, folder, MAX_BYTES) if record else b""
    except (OSError, ConfigError):
        return None
    known = record and (int(record[1]), record[2].decode()) == (len(library), hashlib.sha256(library).hexdigest())
    return library if known else None


def keep(name: str, library: bytes) -> str | None:
    """Write or replace an entry, each of its files atomically; returns the reason if it cannot be stored.

    A folder that cannot be trusted is left unchanged.
    """
    record = f"{len(library)} {hashlib.sha256(library).hexdigest()}\n".encode()
    try:
        path = cache_folder() / "kernels"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        with _opened(path):
            _replace(path / name, library)
            _replace(path / _record_name(name), record)
    except (OSError, ConfigError) as error:
        return str(error)
    return None


def _record_name(name: str) -> str:
    return f"{name}.sha256"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a folder that only this user and root can write to; raises OSError for others."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor), repr(str(path)))
        yield descriptor
    finally:
        os.close(descriptor)


def _read(name: str, folder: int, limit: int) -> bytes:
    with open_regular(name, folder=folder, follow_links=False) as file:
        _check(os.fstat(file.fileno()), name)
        return file.read(limit)


def _check(status: os.stat_result, name: str) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise OSError(f"{name} belongs to another user")
    if status.st_mode & 0o022:
        raise OSError(f"{name} can be written by other users")


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)  # permissions 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
