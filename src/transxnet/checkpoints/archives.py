"""Reading of untrusted zip archives, as PyTorch writes them."""

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

MAX_PART_BYTES = 32 * 2**20
"""Maximum size of a central directory, or of a part that is read whole."""


class _BoundedReader(io.BufferedReader):
    """A file that refuses large reads, such as that of a central directory with a false size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_PART_BYTES:
            raise zipfile.BadZipFile(f"it claims a part of {size:,} bytes")
        return super().read(size)


@contextmanager
def open_archive(source: Path | BytesIO, name: Path | None = None) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive and check its sizes and names.

    Args:
        source: The file, or its content.
        name: Name for messages; the path by default.

    Raises:
        CheckpointError: If its parts claim more bytes than the file has, or two have the same name.
        OSError: If it cannot be read, or is not a regular file.
        zipfile.BadZipFile: If it is not an archive.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            file: IO[bytes] = stack.enter_context(
                _BoundedReader(cast(io.BufferedReader, open_regular(source)).detach())
            )
        else:
            file = source
        size = file.seek(0, io.SEEK_END)
        archive = stack.enter_context(zipfile.ZipFile(file))
        claimed = sum(part.file_size for part in archive.infolist())
        if claimed > size:
            raise CheckpointError(
                f"{name or source} ({size:,} bytes): its parts claim {claimed:,} bytes, more than the file has"
            )
        names = [part.lower() for part in archive.namelist()]  # some readers ignore case
        if len(set(names)) < len(names):
            raise CheckpointError(f"{name or source} has two parts of the same name")
        yield archive


def read_part(archive: zipfile.ZipFile, name: str, limit: int = MAX_PART_BYTES) -> bytes:
    """Read a part of an archive.

    Raises:
        ValueError: If it has more than ``limit`` bytes.
    """
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"its {name} has {size:,} bytes, more than {limit:,}")
    return archive.read(name)
