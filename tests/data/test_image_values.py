"""Values of more than 8 bits, and images of other numbers of bands than three."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch

from transxnet import DataError
from transxnet.data.images import pixel_values
from transxnet.data.images.pixel_values import ImageWarning, bands_of
from transxnet.data.images.reading import BadImageError, opened, read_image
from transxnet.data.transforms import Augmentation, evaluation_transform, training_transform

Values = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _warned_anew() -> Iterator[None]:
    pixel_values.warn_once.cache_clear()
    yield
    pixel_values.warn_once.cache_clear()


def ramp(largest: float, kind: Any = np.uint16, bands: int = 1) -> Values:
    """Values from 0 to the largest, in 16 x 16 pixels."""
    values = np.linspace(0, largest, 256).astype(kind).reshape(16, 16)
    return values if bands == 1 else np.stack([values] * bands, axis=2)


def tiff(path: Path, values: Values, **settings: Any) -> Path:
    if values.ndim == 3:
        settings = {"planarconfig": "contig", "photometric": "minisblack", **settings}
    tifffile.imwrite(path, values, **settings)
    return path


def with_significant_bits(path: Path, values: Values, bits: int) -> Path:
    """A PNG file that states so many significant bits."""
    content = cv2.imencode(".png", values)[1].tobytes()
    chunk = b"sBIT" + bytes([bits] * (1 if values.ndim == 2 else values.shape[2]))
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + chunk + content[33:])
    return path


def seen(path: Path) -> Values:
    return np.asarray(read_image(path), int)


STATED: dict[str, Callable[[Path], Path]] = {
    "png": lambda path: with_significant_bits(path, ramp(4095), 12),
    "png of 10 bits": lambda path: with_significant_bits(path, ramp(1023), 10),
    "png in colour": lambda path: with_significant_bits(path, ramp(4095, bands=3), 12),
    "png in colour of 14 bits": lambda path: with_significant_bits(path, ramp(16383, bands=3), 14),
    "png of 12 bits in the upper ones": lambda path: with_significant_bits(path, ramp(65535), 12),
    "tiff": lambda path: tiff(path, ramp(1000), extratags=[(341, "H", 1, 1000, True)]),
    "tiff of the older tag": lambda path: tiff(path, ramp(1000), extratags=[(281, "H", 1, 1000, True)]),
    "tiff in colour": lambda path: tiff(
        path, ramp(1000, bands=3), photometric="rgb", extratags=[(341, "H", 3, (1000,) * 3, True)]
    ),
    "tiff of floats": lambda path: tiff(
        path, ramp(50, np.float32), extratags=[(340, "f", 1, 0.0, True), (341, "f", 1, 50.0, True)]
    ),
    "floats to 1": lambda path: tiff(path, ramp(1, np.float32)),
    "floats to 1 in colour": lambda path: tiff(path, ramp(1, np.float32, 3), photometric="rgb"),
    "doubles to 1": lambda path: tiff(path, ramp(1, np.float64)),
    "halves to 1": lambda path: tiff(path, ramp(1, np.float16)),
    "floats to 255": lambda path: tiff(path, ramp(255, np.float32)),
}


@pytest.mark.parametrize("write", STATED.values(), ids=STATED)
def test_values_are_scaled_by_their_range(write: Callable[[Path], Path], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = seen(write(tmp_path / "a.any"))
    assert np.abs(levels - np.arange(256).reshape(16, 16, 1)).max() <= 1
    assert levels.max() == 255


GUESSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "12 bits": (lambda path: tiff(path, ramp(4095)), "12 bits"),
    "12 bits in colour": (lambda path: tiff(path, ramp(4095, bands=3), photometric="rgb"), "12 bits"),
    "12 bits, deflated": (lambda path: tiff(path, ramp(4095), compression="zlib"), "12 bits"),
    "signed": (lambda path: tiff(path, ramp(4095, np.int16) - np.int16(1)), "negative"),
    "32 bits": (lambda path: tiff(path, ramp(1e6, np.uint32)), "largest value"),
}


@pytest.mark.filterwarnings("ignore:images of 16 bits without")
@pytest.mark.parametrize(("write", "remark"), GUESSED.values(), ids=GUESSED)
def test_a_guessed_range_is_reported_once(write: Callable[[Path], Path], remark: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    with pytest.warns(ImageWarning, match=remark):
        assert seen(path).max() == 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path)


def test_nearly_black_images_are_reported(tmp_path: Path) -> None:
    with pytest.warns(ImageWarning, match="nearly black"):
        assert seen(tiff(tmp_path / "a.tif", ramp(200))).max() == 1


def test_small_values_are_white_where_the_file_says_so(tmp_path: Path) -> None:
    assert seen(tiff(tmp_path / "a.tif", ramp(65535), photometric="miniswhite"))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("bands", [2, 4, 5, 8])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.filterwarnings("ignore::transxnet.data.images.pixel_values.ImageWarning")
def test_all_bands_of_a_tiff_file_are_kept(bands: int, layout: str, tmp_path: Path) -> None:
    values = np.random.default_rng(bands).integers(0, 256, (20, 30, bands), np.uint8)
    stored = values if layout == "contig" else np.moveaxis(values, 2, 0)
    path = tiff(tmp_path / "a.tif", stored, planarconfig=layout)
    image = read_image(path)
    kept = np.stack([np.asarray(band) for band in bands_of(image, bands)], axis=2)
    assert np.array_equal(kept, values)
    shown = values[:, :, :3] if bands > 2 else values[:, :, :1].repeat(3, axis=2)
    assert np.array_equal(np.asarray(image), shown)
    with opened(path) as inspected:
        assert inspected.size == (30, 20)


@pytest.mark.filterwarnings("ignore:images of 16 bits without")
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [3, 4])
def test_bands_that_are_compressed_by_lzw(kind: Any, bands: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256 if kind == np.uint8 else 4096, (300, 200, bands)).astype(kind)
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    order = [2, 1, 0, 3][:bands]  # as OpenCV has them
    expected = values if kind == np.uint8 else np.round(values / 4095 * 255)
    kept = bands_of(read_image(tmp_path / "a.tif"), bands)
    assert np.abs(np.stack([np.asarray(band) for band in kept], axis=2) - expected[:, :, order]).max() <= 1


def test_bands_beyond_colours_need_no_remark(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 5), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tiff(tmp_path / "a.tif", values, photometric="rgb"))
    assert np.array_equal(np.asarray(image), values[:, :, :3]) and len(bands_of(image, 5)) == 5


@pytest.mark.parametrize(
    ("bands", "kind"), [(1, np.uint8), (1, np.uint16), (3, np.uint8), (4, np.uint8), (5, np.uint8)]
)
def test_bands_follow_the_cameras_orientation(bands: int, kind: Any, tmp_path: Path) -> None:
    values = np.zeros((4, 6, bands), kind)
    values[0, 0] = np.iinfo(kind).max
    path = tiff(
        tmp_path / "a.tif",
        values[:, :, 0] if bands == 1 else values,
        photometric="rgb" if bands > 2 else "minisblack",
        planarconfig="contig" if bands > 2 else None,
        extratags=[(274, "H", 1, 6, True)],
    )
    image = read_image(path)
    assert image.size == (4, 6) and read_image(path, rotate=False).size == (6, 4)
    assert {np.asarray(band)[0, 3] for band in [*image.split(), *bands_of(image, bands)]} == {255}
    with opened(path) as inspected:
        assert inspected.size == (6, 4)


def test_an_image_of_other_bands_is_refused(tmp_path: Path) -> None:
    image = read_image(tiff(tmp_path / "a.tif", ramp(255, np.uint8)))
    with pytest.raises(DataError, match="3 bands, but the network takes 4"):
        bands_of(image, 4)


@pytest.mark.parametrize("bands", [1, 4])
def test_transforms_treat_every_band_alike(bands: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8).repeat(4, axis=2)
    image = read_image(tiff(tmp_path / "a.tif", values, photometric="rgb"))
    config = {"input_size": (bands, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0}
    for transform in (evaluation_transform(config), training_transform(config, Augmentation(color_jitter=0.3))):
        seen = transform(image)
        assert seen.shape == (bands, 32, 32)
        assert all(torch.equal(band, seen[0]) for band in seen)


def test_a_truncated_tiff_file_of_many_bands_is_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, ramp(1, np.float32, 5), photometric="minisblack", planarconfig="contig")
    path = tmp_path / "a.tif"
    path.write_bytes(file.getvalue()[:-3000])
    with pytest.raises(BadImageError, match="damaged"):
        read_image(path)
