"""Metadata of image files: the camera's orientation, and blocks that prevent Pillow from decoding."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from contextlib import suppress
from typing import Literal

from PIL import ExifTags, Image

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions by the values of the orientation tag; 1 is upright."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_JPEG = b"\xff\xd8"
_JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APP1 to APP15, comments; not APP14, the colour encoding
_JPEG_SCAN = 0xDA
_MAX_JPEG_SCANS = 100
_WEBP = b"RIFF", b"WEBP"
_WEBP_METADATA = (b"EXIF", b"XMP ", b"ICCP")
_AVIF_EXIF = re.compile(rb"(infe.{8,10}?)Exif", re.DOTALL)  # version, flags, item and protection precede the type
_TIFF_ORDERS: dict[bytes, tuple[Literal["little", "big"], bool]] = {
    b"II*\0": ("little", False),
    b"MM\0*": ("big", False),
    b"II+\0": ("little", True),
    b"MM\0+": ("big", True),
}
# Layout, colours and orientation of the pixels: without resolution, texts, dates and other directories.
_TIFF_TAGS = (*range(254, 260), 262, 266, 273, 274, *range(277, 282), 284, 292, 293, 317, *range(320, 326))
_TIFF_TAGS = (*_TIFF_TAGS, 332, *range(338, 342), 347, 512, 513, 514, *range(529, 533))


def transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition for the camera's orientation; None if there is none, or it cannot be read.

    Pillow's ``exif_transpose`` also rewrites the EXIF block, which fails for some readable ones.
    """
    with suppress(Exception):  # Pillow can raise anything for damaged blocks
        return TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def without_metadata(content: bytes) -> bytes | None:
    """A PNG, JPEG, TIFF, WebP or AVIF file reduced to pixels and orientation; None for other formats."""
    if content.startswith(_PNG):
        return _png_pixels(content)
    if content.startswith(_JPEG):
        return _jpeg_pixels(content)
    if content[:4] in _TIFF_ORDERS:
        return _tiff_pixels(content)
    if (content[:4], content[8:12]) == _WEBP:
        return _webp_pixels(content)
    if content[4:8] == b"ftyp":
        return _AVIF_EXIF.sub(rb"\1free", content, count=1)  # the orientation is a property of the pixels, too
    return None


def significant_bits(content: bytes) -> int | None:
    """The number of significant bits that the beginning of a PNG file states for its samples; None if it does not."""
    start = content.find(b"sBIT")
    if start < 4 or -1 < content.find(b"IDAT") < start:
        return None
    return max(content[start + 4 : start + 4 + int.from_bytes(content[start - 4 : start])][:4], default=None)


def has_too_many_scans(content: bytes) -> bool:
    """Whether a JPEG file has so many scans that decoding a megabyte would take hours."""
    return content.count(bytes([0xFF, _JPEG_SCAN])) > _MAX_JPEG_SCANS


def _png_pixels(content: bytes) -> bytes:
    kept = [_PNG]
    start = len(_PNG)
    transparency = {0: (2,), 2: (6,), 3: range(1, 257)}.get(content[25] if len(content) > 25 else 0, ())
    while start + 8 <= len(content):
        length, kind = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        end = start + 12 + length  # and length, kind, checksum
        if kind in _PNG_CHUNKS and (kind != b"tRNS" or length in transparency):
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _jpeg_pixels(content: bytes) -> bytes:
    kept = [_JPEG]
    start = len(_JPEG)
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != _JPEG_SCAN:
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
        segment = content[start:end]
        if segment[1] not in _JPEG_METADATA or segment[4:10] == b"Exif\0\0":
            kept.append(segment)
        start = end
    return b"".join([*kept, content[start:]])


def _webp_pixels(content: bytes) -> bytes:
    kept = [b"WEBP"]
    start = 12
    while start + 8 <= len(content):
        end = start + 8 + int.from_bytes(content[start + 4 : start + 8], "little")
        end += end % 2
        if content[start : start + 4] not in _WEBP_METADATA:
            kept.append(content[start:end])
        start = end
    body = b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def with_tags(content: bytes, values: Mapping[int, int], without: Container[int]) -> bytes:
    """A TIFF file with some tags of its first directory replaced by single numbers, or removed."""
    order, big = _TIFF_ORDERS[content[:4]]
    counter, offset, first = (8, 8, 8) if big else (2, 4, 4)
    _, entries = _tiff_directory(content)
    kept = {number: one for one in entries if (number := int.from_bytes(one[:2], order)) not in without}
    long = (4).to_bytes(2, order) + (1).to_bytes(offset, order)
    kept |= {tag: tag.to_bytes(2, order) + long + value.to_bytes(4, order).ljust(offset, b"\0")
             for tag, value in values.items()}  # fmt: skip
    directory = len(kept).to_bytes(counter, order) + b"".join(kept[tag] for tag in sorted(kept)) + bytes(offset)
    return content[:first] + len(content).to_bytes(offset, order) + content[first + offset :] + directory


def _tiff_pixels(content: bytes) -> bytes:
    """The file with a first directory of the tags that describe the pixels, and no other directory."""
    order, big = _TIFF_ORDERS[content[:4]]
    entry, counter, offset = (20, 8, 8) if big else (12, 2, 4)
    start, entries = _tiff_directory(content)
    kept = [one for one in entries if int.from_bytes(one[:2], order) in _TIFF_TAGS]
    directory = len(kept).to_bytes(counter, order) + b"".join(kept) + bytes(offset)
    end = start + counter + len(entries) * entry
    return content[:start] + directory.ljust(end - start, b"\0") + content[end:]


def _tiff_directory(content: bytes) -> tuple[int, list[bytes]]:
    """Position and entries of a TIFF file's first directory."""
    order, big = _TIFF_ORDERS[content[:4]]
    entry, counter, offset = (20, 8, 8) if big else (12, 2, 4)
    first = 8 if big else 4
    start = int.from_bytes(content[first : first + offset], order)
    begin = start + counter
    count = min(int.from_bytes(content[start:begin], order), max(0, len(content) - begin) // entry)
    return start, [content[at : at + entry] for at in range(begin, begin + count * entry, entry)]
