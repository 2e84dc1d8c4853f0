"""Image files, including damaged ones."""

from __future__ import annotations

import struct
import zlib
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
