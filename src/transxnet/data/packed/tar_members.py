"""Listing the members of an untrusted tar file, and detecting damage."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

_MAX_HEADER = 2**20  # bytes, of a long name or extended headers
_MAX_NAME = 1_000  # characters; the table of names is as wide as the longest
_MAX_PADDING = 2**24  # bytes of zeros after the last member; writers pad to a megabyte
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """List the regular files in a tar file, in order, each within the bounds of the tar file.

    Python's library takes a damaged header for the end, seeks backwards for negative sizes, and reads
    any size that a header claims. So sizes are compared with the file's size, and its end is checked.

    Args:
        file: A regular file.

    Raises:
        tarfile.ReadError: If it is damaged, truncated, or has sparse members.
        Exception: Other exceptions of the library for unexpected headers.
    """
    size = os.fstat(file.fileno()).st_size
    limited = type("_Limited", (_Member,), {"limit": size})
    with tarfile.open(fileobj=file, mode="r:", tarinfo=limited) as archive:
        for member in archive:
            if member.issparse():
                raise tarfile.ReadError("it has sparse members, which are not supported")
            if member.size < 0 or member.offset_data + member.size > size:
                raise tarfile.ReadError("a member reaches beyond the file's end")
            if "\0" in member.name:
                raise tarfile.ReadError("an extended header is damaged")
            if len(member.name) > _MAX_NAME:
                raise tarfile.ReadError(f"a member's name has {len(member.name):,} characters")
            if member.isreg():
                yield member
        _check_end(file, archive.offset, size)


class _Member(tarfile.TarInfo):
    """A header whose size is limited by that of the tar file."""

    limit: int

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size <= (_MAX_HEADER if member.type in _HEADERS else cls.limit):
            raise tarfile.ReadError(f"a header claims {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it has sparse members, which are not supported")
        return member


def _check_end(file: BinaryIO, end: int, size: int) -> None:
    """Check for the zeros at the end; without them the file is truncated or a header is damaged."""
    if size - end < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is truncated: the end marker is missing")
    if size - end > _MAX_PADDING:
        raise tarfile.ReadError(f"{size - end:,} bytes follow its apparent end at byte {end:,}")
    if any(os.pread(file.fileno(), size - end, end)):
        raise tarfile.ReadError(f"there is no valid header at byte {end:,}")
