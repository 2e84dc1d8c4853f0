"""Random damage to every format of data: it is read, or raises a one-line error that names the file."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.coco_files import annotation, content, ring, write
from helpers.damage import DAMAGES, altered, bounded_memory, spoilt
from helpers.packed_files import encoded, fill, sharded, tar
from transxnet import DataError
from transxnet.data.coco.opening import open_coco_file
from transxnet.data.coco.run_lengths import from_mask, uncompressed
from transxnet.data.images.reading import BadImageError, read_image
from transxnet.data.sources import open_parts

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with bounded_memory():
        yield


def ends_well(read: Callable[[], Any], *names: object) -> bool:
    """Whether data was read; otherwise checks for a one-line DataError that names one of the files."""
    try:
        read()
    except DataError as error:
        line = str(error)
        assert any(str(name) in line for name in names) and "\n" not in line, line
        return False
    return True


def load(source: Any, index: int) -> None:
    """Decode an image, or check that the error names it."""
    try:
        source.load(index)
    except BadImageError as error:
        if error.path != source.name(index):
            raise AssertionError(f"{source.name(index)} is called {error.path}") from error


def read_all(root: Path) -> None:
    """Open a data set and decode its images, as training does."""
    for source in open_parts(str(root)).sources.values():
        for index in range(len(source.targets)):
            assert 0 <= source.targets[index] < len(source.class_names)
            load(source, index)


def picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (23, 31, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def stored(form: str, mode: str = "RGB", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, form, **settings)
    return file.getvalue()


def bands(kind: Any, count: int, **settings: Any) -> bytes:
    """A TIFF file of a type and number of bands that Pillow does not read."""
    values = np.asarray(picture("L")).astype(kind)[:, :, None].repeat(count, axis=2)
    file = io.BytesIO()
    tifffile.imwrite(file, values[:, :, 0] if count == 1 else values, photometric="minisblack", **settings)
    return file.getvalue()


def exif() -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x0128], block[0x011A], block[0x010E] = 2, 72.0, "a description"
    block.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    return block


IMAGES: dict[str, Callable[[], bytes]] = {
    "jpg": lambda: stored("JPEG", exif=exif(), dpi=(72, 72), icc_profile=b"profile" * 9),
    "progressive.jpg": lambda: stored("JPEG", "CMYK", progressive=True),
    "png": lambda: stored("PNG", exif=exif(), icc_profile=b"profile" * 9),
    "palette.png": lambda: stored("PNG", "P", transparency=3),
    "16.png": lambda: stored("PNG", "I;16"),
    "webp": lambda: stored("WEBP", exif=exif()),
    "lossless.webp": lambda: stored("WEBP", "RGBA", lossless=True),
    "tiff": lambda: stored("TIFF", exif=exif()),
    "deflate.tiff": lambda: stored("TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tiff": lambda: stored("TIFF", compression="jpeg"),
    "gif": lambda: stored("GIF", "P", save_all=True, append_images=[picture("P").rotate(90)]),
    "bmp": lambda: stored("BMP"),
    "palette.bmp": lambda: stored("BMP", "P"),
    "ppm": lambda: stored("PPM"),
    "avif": lambda: stored("AVIF", exif=exif()),
    "jp2": lambda: stored("JPEG2000"),
    "tga": lambda: stored("TGA", compression="tga_rle"),
    "bands.tiff": lambda: bands(np.uint8, 5),
    "deflated.bands.tiff": lambda: bands(np.uint16, 5, compression="zlib"),
    "float.tiff": lambda: bands(np.float32, 1),
    "colours.16.png": lambda: cv2.imencode(".png", np.asarray(picture(), np.uint16) * 16)[1].tobytes(),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str, tmp_path: Path) -> None:
    whole, path = IMAGES[kind](), tmp_path / f"image.{kind}"
    path.write_bytes(whole)
    read_image(path)
    generator = np.random.default_rng(list(kind.encode()))
    read = 0
    for _ in range(DAMAGES):
        path.write_bytes(spoilt(whole, generator))
        read += ends_well(lambda: read_image(path), path)
    assert 0 < read < DAMAGES


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_affect_pixels(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{form.lower()}"
    generator = np.random.default_rng(0)
    expected = np.asarray(Image.open(io.BytesIO(stored(form))).convert("RGB"))
    block = exif().tobytes()
    for _ in range(DAMAGES):
        path.write_bytes(stored(form, exif=b"Exif\0\0" + spoilt(block[6:], generator)))
        seen = read_image(path, rotate=False)
        assert np.array_equal(np.asarray(seen), expected)
        assert sorted(read_image(path).size) == sorted(seen.size)


def test_manifests(tmp_path: Path) -> None:
    root = sharded(fill(tmp_path / "photos", [f"{i % 2}/{i}.png" for i in range(12)]), tmp_path / "out")
    path = root / "manifest.json"
    whole = json.loads(path.read_text())
    generator = np.random.default_rng(1)
    read = 0
    for index in range(DAMAGES):
        if index % 4:
            path.write_text(json.dumps(altered(whole, generator)))
        else:
            path.write_bytes(spoilt(json.dumps(whole).encode(), generator))
        read += ends_well(lambda: read_all(root), root)
    assert 0 < read < DAMAGES


def test_indices(tmp_path: Path) -> None:
    root = sharded(fill(tmp_path / "photos", [f"{i % 2}/{i}.png" for i in range(12)]), tmp_path / "out")
    manifest = json.loads((root / "manifest.json").read_text())
    path = root / "train-000000.index.npy"
    record = next(each for each in manifest["shards"] if each["file"] == "train-000000.tar")
    whole = path.read_bytes()
    generator = np.random.default_rng(2)
    read = 0
    for _ in range(DAMAGES):
        content = spoilt(whole, generator)
        path.write_bytes(content)
        # With a matching digest, which would otherwise detect all damage.
        record.update(index_bytes=len(content), index_sha256=hashlib.sha256(content).hexdigest())
        (root / "manifest.json").write_text(json.dumps(manifest))
        read += ends_well(lambda: read_all(root), path.name)
    assert 0 < read < DAMAGES


def test_tar_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    names = [f"train/{index % 2}/{'long' * (30 if index == 3 else 1)}ä{index}" for index in range(6)]
    tar(path, {f"{name}.png": encoded(index)[:700] for index, name in enumerate(names)} | {"0.cls": b"0"})
    members: dict[str, bytes] = {}
    for index, name in enumerate(names):
        members |= {f"{name}.png": encoded(index)[:700], f"{name}.cls": str(index % 2).encode()}
    tar(path, members)
    whole = path.read_bytes()
    headers = [start for start in range(0, len(whole), 512) if whole[start + 257 : start + 262] == b"ustar"]
    generator = np.random.default_rng(3)
    read = 0
    for index in range(DAMAGES):
        content = bytearray(whole)
        if index % 2:  # within a header, whose checksum is then fixed
            start = int(generator.choice(headers))
            header = bytearray(spoilt(whole[start : start + 500], generator)[:500].ljust(512, b"\0"))
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            content[start : start + 512] = header
            path.write_bytes(content)
        else:
            path.write_bytes(spoilt(whole, generator))
        read += ends_well(lambda: read_all(tmp_path), path)
    assert 0 < read < DAMAGES


def test_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = [{"image": {"bytes": encoded(index)[:400], "path": "x.png"}, "label": index % 2} for index in range(4)]
    path = tmp_path / "hub/a.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(4)
    read = 0
    for _ in range(DAMAGES):
        path.write_bytes(spoilt(whole, generator))
        read += ends_well(lambda: read_all(path.parent), path.parent)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert 0 < read < DAMAGES


def test_coco_files(tmp_path: Path) -> None:
    described = content()
    described["annotations"] += [
        annotation(8, 10, segmentation=uncompressed(ring())),
        annotation(9, 20, segmentation=from_mask(ring()), iscrowd=1),
    ]
    path = write(tmp_path / "a.json", described, tmp_path / "images")
    generator = np.random.default_rng(5)

    def read() -> None:
        source = open_coco_file(path)
        for index in range(len(source)):
            load(source, index)
            source.instances(index).masks((5, 5)) if source.has_masks else source.instances(index)
        source.ground_truth()

    count = 0
    for index in range(DAMAGES):
        if index % 4:
            path.write_text(json.dumps(altered(described, generator)))
        else:
            path.write_bytes(spoilt(json.dumps(described).encode(), generator))
        count += ends_well(read, path)
    assert 0 < count < DAMAGES
