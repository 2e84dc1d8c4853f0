"""Metadata of image files: the camera's orientation, and blocks that prevent Pillow from decoding."""

from __future__ import annotations

from contextlib import suppress

from PIL import ExifTags, Image

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_JPEG = b"\xff\xd8"
_JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APP1 to APP15, comments; not APP14, the colour encoding
_JPEG_SCAN = 0xDA
_MAX_JPEG_SCANS = 100


def transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition for the camera's orientation; None if there is none, or it cannot be read.

    Pillow's ``exif_transpose`` also rewrites the EXIF block, which fails for some readable ones.
    """
    with suppress(Exception):  # Pillow can raise anything for damaged blocks
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def without_metadata(content: bytes) -> bytes | None:
    """A PNG or JPEG file reduced to pixels and orientation; None for other formats."""
    if content.startswith(_PNG):
        return _png_pixels(content)
    if content.startswith(_JPEG):
        return _jpeg_pixels(content)
    return None


def has_too_many_scans(content: bytes) -> bool:
    """Whether a JPEG file has so many scans that decoding a megabyte would take hours."""
    return content.count(bytes([0xFF, _JPEG_SCAN])) > _MAX_JPEG_SCANS


def _png_pixels(content: bytes) -> bytes:
    kept = [_PNG]
    start = len(_PNG)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])  # length, kind, checksum
        if content[start + 4 : start + 8] in _PNG_CHUNKS:
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
