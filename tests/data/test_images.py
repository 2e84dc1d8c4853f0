"""Reading image files in viewing orientation, or with a reason for failure."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.image_files import bad_images, picture, with_exif
from transxnet import DataError
from transxnet.data.images.reading import SUFFIXES, BadImageError, expand, find_images, read_image


def test_cmyk_is_converted_to_rgb(tmp_path: Path) -> None:
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    seen = np.asarray(read_image(tmp_path / "a.jpg"), int)
    assert np.abs(seen[:, 5] - (255, 0, 0)).max() < 30
    assert np.abs(seen[:, 35] - (0, 0, 255)).max() < 30


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    seen = np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    assert np.array_equal(seen.reshape(-1), np.arange(256))


@pytest.mark.filterwarnings("ignore:images of 16 bits without")
def test_dark_16_bit_grey_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).max() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_blended_with_white(tmp_path: Path, mode: str) -> None:
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


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (30, 40)


FORMATS_WITH_EXIF = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")


@pytest.mark.parametrize("form", FORMATS_WITH_EXIF)
def test_exif_that_pillow_cannot_write_does_not_affect_an_image(form: str, tmp_path: Path) -> None:
    resolution_unit_in_words = 0x128, 2, 4, b"cm\0\0"
    path = tmp_path / "a.any"
    path.write_bytes(with_exif(form, [(0x112, 3, 1, b"\6\0\0\0"), resolution_unit_in_words]))
    expected = np.asarray(read_image(tmp_path / "a.any", rotate=False))
    # AVIF has its own orientation, and asks readers to ignore that of EXIF.
    assert read_image(path).size == ((48, 32) if form == "AVIF" else (32, 48))
    path.write_bytes(with_exif(form, []))
    assert np.array_equal(np.asarray(read_image(path)), expected)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


CHUNKS = {
    "much text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))),
    "more text": chunk(b"tEXt", b"a\0" + b"b" * 70_000_000),
    "text of no encoding": chunk(b"iTXt", b"a\0\1\1"),
    "profile of no encoding": chunk(b"iCCP", b"name\0\5xxxx"),
    "profile without an end": chunk(b"iCCP", b"name"),
    "profile of megabytes": chunk(b"iCCP", b"n\0\0" + zlib.compress(bytes(5_000_000))),
    "short transparency": chunk(b"tRNS", b"\0"),
    "short gamma": chunk(b"gAMA", b"\0"),
    "wrong checksum": chunk(b"iCCP", b"n\0\0" + zlib.compress(b"q"))[:-1] + b"?",
}


@pytest.mark.parametrize("added", CHUNKS.values(), ids=CHUNKS)
def test_odd_metadata_of_png_files(added: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    content = path.read_bytes()
    for at in (33, len(content) - 12):  # before and after the pixels
        path.write_bytes(content[:at] + added + content[at:])
        assert np.array_equal(np.asarray(read_image(path)), np.asarray(picture()))


@pytest.mark.parametrize("form", SUFFIXES)
def test_every_listed_format_is_found_and_decoded(form: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"a{suffix}" for ending in SUFFIXES[form] for suffix in (ending, ending.upper())]
    for path in paths:
        picture().save(path, form)
    assert sorted(find_images(tmp_path)) == sorted(paths)
    for path in paths:
        assert np.abs(np.asarray(read_image(path), int) - np.asarray(picture(), int)).mean() < 20


def test_large_images_in_jpeg_2000_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transxnet.data.images.reading._MAX_JPEG2000_PIXELS", 1000)
    picture().save(tmp_path / "a.jp2")
    with pytest.raises(BadImageError, match="pixels in JPEG 2000"):
        read_image(tmp_path / "a.jp2")


def test_a_single_pixel(tmp_path: Path) -> None:
    Image.new("L", (1, 1), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (7, 7, 7)


def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    for name, reason in bad_images(tmp_path).items():
        with pytest.raises(BadImageError, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_expand_lists_files_folders_and_patterns_once_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "9.png", "deep/1.jpg", ".hidden.png", "__MACOSX/2.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [path.name for path in find_images(tmp_path)]
    assert names == ["9.png", "10.png", "1.jpg"]
    paths = expand([str(tmp_path / "*.png"), str(tmp_path), "missing.jpg"])
    assert [path.name for path in paths] == ["9.png", "10.png", "1.jpg", "missing.jpg"]


@pytest.mark.parametrize(("pattern", "message"), [("*.jpg", "nothing matches"), ("", "has no image")])
def test_expand_reports_missing_images(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        expand([str(tmp_path / pattern)])


@pytest.mark.parametrize("pattern", ["https://example.org/cat.jpg", "-"])
def test_expand_takes_neither_urls_nor_standard_input(pattern: str) -> None:
    with pytest.raises(DataError, match="images are not read from .*: save the image"):
        expand([pattern])
