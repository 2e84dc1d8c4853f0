"""Zip archives, as PyTorch writes them, that may lie about what is in them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from transxnet.errors import CheckpointError
from transxnet.files import open_regular

LARGEST_PART = 32 * 2**20
"""Bytes above which neither a table of contents nor a part is read at once."""


class _Careful(io.BufferedReader):
    """A file that is never read in one large piece, as a table of contents of a claimed size would be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_PART:
            raise zipfile.BadZipFile(f"it claims a part of {size:,} bytes")
        return super().read(size)


@contextmanager
def open_archive(source: Path | BytesIO, name: Path | None = None) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose parts fit into the file.

    Args:
        source: The file, or its content.
        name: What to call it in messages, if not by its path.

    Raises:
        CheckpointError: If its parts claim more bytes than the file has, or two have the same name.
        OSError: If it cannot be read, or is not a regular file.
        zipfile.BadZipFile: If it is not an archive.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            file: IO[bytes] = stack.enter_context(_Careful(cast(io.BufferedReader, open_regular(source)).detach()))
        else:
            file = source
        size = file.seek(0, io.SEEK_END)
        archive = stack.enter_context(zipfile.ZipFile(file))
        claimed = sum(part.file_size for part in archive.infolist())
        if claimed > size:
            raise CheckpointError(
                f"{name or source} ({size:,} bytes): its parts claim {claimed:,} bytes, more than the file has"
            )
        names = [part.lower() for part in archive.namelist()]  # some readers do not mind the case
        if len(set(names)) < len(names):
            raise CheckpointError(f"{name or source} holds two parts of the same name")
        yield archive


def read_part(archive: zipfile.ZipFile, name: str, limit: int = LARGEST_PART) -> bytes:
    """A part of an archive.

    Raises:
        ValueError: If it has more than ``limit`` bytes.
    """
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"its {name} has {size:,} bytes; at most {limit:,} are read")
    return archive.read(name)
