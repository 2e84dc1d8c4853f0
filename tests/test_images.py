"""Reading image files: as a person sees them, or with a reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transxnet import DataError
from transxnet.data.images import BadImageError, expand, find_images, read_image


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Left half red, right half blue."""
    values = np.zeros((height, width, 3), np.uint8)
    values[:, : width // 2, 0] = values[:, width // 2 :, 2] = 255
    return Image.fromarray(values)


def test_cmyk_looks_as_it_did_in_rgb(tmp_path: Path) -> None:
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    seen = np.asarray(read_image(tmp_path / "a.jpg"), int)
    assert np.abs(seen[:, 5] - (255, 0, 0)).max() < 30
    assert np.abs(seen[:, 35] - (0, 0, 255)).max() < 30


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    seen = np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    assert np.array_equal(seen.reshape(-1), np.arange(256))


def test_dark_16_bit_grey_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).max() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[255, 0]], 20, axis=1).repeat(30, axis=0).astype(np.uint8)))
    if mode == "P":
        image = image.quantize(16)  # a palette with alpha
    elif mode == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "a.png")
    seen = np.asarray(read_image(tmp_path / "a.png"))
    assert (seen[:, 35] > 250).all()
    assert (seen[:, 5, 1] < 200).all()


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert np.asarray(read_image(tmp_path / "a.gif")).max() > 200


def test_the_camera_s_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (30, 40)


def test_a_single_pixel(tmp_path: Path) -> None:
    Image.new("L", (1, 1), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (7, 7, 7)


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def bad_images(folder: Path) -> dict[str, str]:
    """Unreadable files of every kind, and a word of the reason for each."""
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


def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    for name, reason in bad_images(tmp_path).items():
        with pytest.raises(BadImageError, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_expand_takes_files_folders_and_patterns_in_natural_order_once(tmp_path: Path) -> None:
    for name in ("10.png", "9.png", "deep/1.jpg", ".hidden.png", "__MACOSX/2.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [path.name for path in find_images(tmp_path)]
    assert names == ["9.png", "10.png", "1.jpg"]
    paths = expand([str(tmp_path / "*.png"), str(tmp_path), "missing.jpg"])
    assert [path.name for path in paths] == ["9.png", "10.png", "1.jpg", "missing.jpg"]


@pytest.mark.parametrize(("pattern", "message"), [("*.jpg", "nothing matches"), ("", "holds no image")])
def test_expand_says_what_is_not_there(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        expand([str(tmp_path / pattern)])
