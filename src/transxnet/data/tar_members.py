"""Listing the members of a tar file that others wrote, and finding out whether it is whole."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

_MAX_HEADER = 2**20  # bytes of a long name or of extended headers
_MAX_NAME = 1_000  # characters; a table of all names is as wide as the longest
_MAX_PADDING = 2**24  # bytes of zeros after the last member; writers fill up to a megabyte
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The regular files in a tar file, in order, each with its bytes within the file.

    Python's library takes a damaged header for the end, goes back where a size is negative, and reads
    as much as a header claims; so sizes are compared with the file's own, and the end is looked at.

    Args:
        file: A regular file.

    Raises:
        tarfile.ReadError: If it is damaged, cut short, or has members with holes.
        Exception: Of other kinds, where the library meets headers that it does not expect.
    """
    size = os.fstat(file.fileno()).st_size
    limited = type("_Limited", (_Member,), {"limit": size})
    with tarfile.open(fileobj=file, mode="r:", tarinfo=limited) as archive:
        for member in archive:
            if member.issparse():
                raise tarfile.ReadError("it has members with holes, which are not read")
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
    """A header whose sizes are within a file of so many bytes."""

    limit: int

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size <= (_MAX_HEADER if member.type in _HEADERS else cls.limit):
            raise tarfile.ReadError(f"a header claims {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it has members with holes, which are not read")
        return member


def _check_end(file: BinaryIO, end: int, size: int) -> None:
    """A tar file ends with zeros; where they are missing, it was cut short or a header is damaged."""
    if size - end < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut short: there is no mark at its end")
    if size - end > _MAX_PADDING:
        raise tarfile.ReadError(f"{size - end:,} bytes are left after byte {end:,}, where it seems to end")
    if any(os.pread(file.fileno(), size - end, end)):
        raise tarfile.ReadError(f"there is no valid header at byte {end:,}")
