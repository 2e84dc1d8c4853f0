"""Image files, including damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Left half red, right half blue."""
    values = np.zeros((height, width, 3), np.uint8)
    values[:, : width // 2, 0] = values[:, width // 2 :, 2] = 255
    return Image.fromarray(values)


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def bad_images(folder: Path) -> dict[str, str]:
    """Unreadable files of every kind, with a word of each reason."""
    (folder / "text.jpg").write_text("hello")
    (folder / "zero.png").touch()
    picture().save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:500])
    bomb(folder / "bomb.png")
    (folder / "link.jpg").symlink_to("nowhere.jpg")
    return {
        "text.jpg": "not an image",
        "zero.png": "empty",
        "cut.jpg": "damaged",
        "bomb.png": "pixels",
        "link.jpg": "broken link",
    }


DESCRIBED = {"input_size": (3, 32, 32), "crop_pct": 1.0}


Entry = tuple[int, int, int, bytes]
"""Tag, type, count and four bytes of a directory's entry."""

_ROOM = 1200  # bytes that are kept free for an EXIF block


def directory(entries: Sequence[Entry]) -> bytes:
    """A little-endian directory of EXIF or TIFF without a next one."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + bytes(4)


def with_exif(form: str, entries: Sequence[Entry], rest: bytes = b"") -> bytes:
    """A file of 48 x 32 pixels with an EXIF block, or a TIFF file with the entries among its own.

    Args:
        form: Pillow's name of the format.
        entries: The entries; Pillow need not be able to write them.
        rest: Bytes after the directory.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    file = io.BytesIO()
    if form == "TIFF":
        image.save(file, form)
        content = file.getvalue()
        start, count = struct.unpack("<I", content[4:8])[0], 2
        fields = [content[at : at + 12] for at in range(start + count, start + count + 12 * content[start], 12)]
        own = {(one := struct.unpack("<HHI", field[:8]))[0]: (*one, field[8:]) for field in fields}
        merged = own | {entry[0]: entry for entry in entries}
        return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory([*merged.values()]) + rest
    placeholder = Image.Exif()
    placeholder[0x10E] = "?" * (_ROOM - 200)
    image.save(file, form, exif=placeholder)
    content, free = file.getvalue(), placeholder.tobytes()[6:]
    start = content.index(free[-100:]) + 100 - len(free)
    block = (b"II*\0" + struct.pack("<I", 8) + directory(entries) + rest)[: len(free)].ljust(len(free), b"\0")
    content = content[:start] + block + content[start + len(free) :]
    if form == "PNG":
        begin = content.index(b"eXIf")
        end = begin + 4 + int.from_bytes(content[begin - 4 : begin])
        content = content[:end] + struct.pack(">I", zlib.crc32(content[begin:end])) + content[end + 4 :]
    return content
