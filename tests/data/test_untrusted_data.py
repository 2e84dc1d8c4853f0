"""Data files with false contents: commands report them in one line, within 4 GiB and a minute."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.coco_files import annotation, content, write
from helpers.forked import Ended, limited
from helpers.packed_files import encoded, fill, sharded

LIES: dict[str, dict[str, Any]] = {
    "nested": {"listing": None},
    "class twice": {"classes": ["0", "0"]},
    "class of another kind": {"classes": [1, 2]},
    "shards of another kind": {"shards": {}},
    "endless plan": {"planned": 10**30},
    "negative": {"seed": -1},
    "not a number": {"shard_bytes": float("nan")},
    "unknown field": {"more": 1},
}


def in_a_line(ended: Ended, *names: str) -> None:
    """Check that the command named the unusable files, in one line each, with status 1 or 2."""
    assert ended.status in (1, 2) and "Traceback" not in ended.err, ended
    assert all(name in ended.out + ended.err for name in names), ended
    if ended.status == 2:
        assert ended.refusal


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return sharded(fill(tmp_path / "photos", [f"{i % 2}/{i}.png" for i in range(12)]), tmp_path / "out")


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_manifests(shards: Path, changes: dict[str, Any]) -> None:
    path = shards / "manifest.json"
    text = json.dumps(json.loads(path.read_text()) | changes)
    path.write_text(text.replace("null", "[" * 100_000 + "]" * 100_000))
    in_a_line(limited("data", "check", shards), str(path))


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "", "test-000000.tar", "val-000000.tar"])
def test_manifests_with_paths_outside_the_folder(shards: Path, name: str) -> None:
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = name
    path.write_text(json.dumps(manifest))
    in_a_line(limited("data", "check", shards), str(path))


def index_of(shards: Path, change: Callable[[Any], Any]) -> Path:
    """Change the first shard's index, with matching digests."""
    path = shards / "train-000000.index.npy"
    file = io.BytesIO()
    np.save(file, change(np.load(path)))
    path.write_bytes(file.getvalue())
    manifest = json.loads((shards / "manifest.json").read_text())
    record = next(each for each in manifest["shards"] if each["file"] == "train-000000.tar")
    record |= {"index_bytes": path.stat().st_size, "index_sha256": hashlib.sha256(file.getvalue()).hexdigest()}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [("target", -3), ("target", 2), ("offset", -1), ("offset", 2**62), ("size", -1), ("size", 2**62), ("place", 99)],
)
def test_indices(shards: Path, field: str, value: int) -> None:
    def change(entries: Any) -> Any:
        entries[field][1] = value
        return entries

    path = index_of(shards, change)
    for command in (("data", "check", shards), ("train", "--data", shards)):
        in_a_line(limited(*command), path.name)


def test_an_index_that_claims_10_12_images(shards: Path) -> None:
    path = index_of(shards, lambda entries: entries)
    kind = np.lib.format.dtype_to_descr(np.load(path).dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": (10**12,)})
    path.write_bytes(header.getvalue())
    in_a_line(limited("data", "check", shards), path.name)


def test_an_index_with_a_wrong_digest_is_refused_in_training(shards: Path) -> None:
    path = shards / "train-000000.index.npy"
    entries = np.load(path)
    entries["target"] = entries["target"][::-1] ^ 1
    np.save(path, entries)
    in_a_line(limited("train", "--data", shards), path.name, "SHA-256")


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def extended(**records: str) -> bytes:
    member = tarfile.TarInfo("0/b.png")
    member.pax_headers = records
    return member.tobuf(tarfile.PAX_FORMAT)


PICTURE = encoded(0)
WHOLE = header("0/a.png", len(PICTURE)) + PICTURE + bytes(-len(PICTURE) % 512)
END = bytes(10_240)
TARS = {
    "cut in a header": WHOLE + header("0/b.png", 5)[:100],
    "no mark at the end": WHOLE,
    "negative": WHOLE + header("0/b.png", -512) + END,
    "enormous": WHOLE + header("0/b.png", 2**62) + END,
    "beyond the end": WHOLE + header("0/b.png", 10**6) + END,
    "long name": WHOLE + header("././@LongLink", 2**40, tarfile.GNUTYPE_LONGNAME) + END,
    "extended header": WHOLE + header("x", 2**33, tarfile.XHDTYPE) + END,
    "negative in an extended header": WHOLE + extended(size="-512") + END,
    "enormous in an extended header": WHOLE + extended(size=str(2**62)) + END,
    "name in an extended header": WHOLE + extended(path="x" * 100_000 + ".png") + END,
    "holes": WHOLE + header("0/b.png", 512, tarfile.GNUTYPE_SPARSE) + END,
    "zeros in the middle": WHOLE + bytes(512) + WHOLE + END,
    "damaged in the middle": WHOLE + b"?" * 512 + WHOLE + END,
}


@pytest.mark.parametrize("written", TARS.values(), ids=TARS)
def test_tar_files(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(written)
    found = limited("data", "check", tmp_path)
    in_a_line(found, str(path))
    assert found.out.rstrip().endswith("1 images, 1 broken")  # images before the damage are read
    in_a_line(limited("train", "--data", tmp_path), str(path))


LABELS: dict[str, list[Any]] = {
    "none": [None, None],
    "fractions": [0.5, 1.0],
    "lists": [[1], [2]],
    "structures": [{"a": 1}, {"a": 2}],
    "enormous": [0, 10**9],
    "negative": [0, -1],
    "long": ["a" * 10**6, "b"],
    "no rows": [],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_parquet_labels(tmp_path: Path, labels: list[Any]) -> None:
    ended = parquet(tmp_path, labels, [{"bytes": PICTURE, "path": None}] * len(labels))
    in_a_line(ended, str(tmp_path / "hub"))


def test_parquet_images(tmp_path: Path) -> None:
    picture = tmp_path / "outside.png"
    picture.write_bytes(PICTURE)
    rows = [None, {"bytes": None, "path": None}, {"bytes": None, "path": str(picture)}, {"bytes": PICTURE, "path": ""}]
    ended = parquet(tmp_path, [0, 1, 0, 1], rows)
    in_a_line(ended, "a.parquet:0", "a.parquet:1", "a.parquet:2", "outside")
    assert "4 images, 3 broken" in ended.out


def parquet(folder: Path, labels: list[Any], images: list[Any]) -> Ended:
    """The output of checking a table."""
    pytest.importorskip("datasets")
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    table = arrow.table({"image": arrow.array(images, kind), "label": arrow.array(labels)})
    (folder / "hub").mkdir()
    files.write_table(table, folder / "hub/a.parquet")
    cache = {"HF_HOME": str(folder), "HF_DATASETS_CACHE": str(folder / "cache")}
    return limited("data", "check", folder / "hub", environment=cache)


COCO: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sizes": lambda described: described["images"][0].update(width=10**9),
    "a long name": lambda described: described["images"][0].update(file_name="x" * 10_000),
    "no name": lambda described: described["images"][0].update(file_name="\ud800"),
    "boxes": lambda described: described["annotations"].append(annotation(9, 10, bbox=[float("nan"), 0, -1, 1e308])),
    "run lengths": lambda described: described["annotations"].append(
        annotation(9, 10, segmentation={"size": [40, 50], "counts": [10**9]})
    ),
    "outlines": lambda described: described["annotations"].append(
        annotation(9, 10, segmentation=[[99_999, 99_999, -99_999, -99_999] * 500])
    ),
    "ids": lambda described: [each.update(id=2**63 - 1) for each in described["annotations"]],
    "categories": lambda described: described["categories"].extend(
        {"id": 100 + number, "name": str(number)} for number in range(10**6)
    ),
    "levels": lambda described: described.update(info="levels"),
}


@pytest.mark.parametrize("change", COCO.values(), ids=COCO)
def test_coco_files(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    described = content()
    path = write(tmp_path / "a.json", described, tmp_path)
    described = copy.deepcopy(described)
    change(described)
    path.write_text(json.dumps(described).replace('"levels"', "[" * 100_000 + "]" * 100_000))
    ended = limited("data", "check", path)
    in_a_line(ended, *([str(path)] if ended.status == 2 else ["dropped"] * ("renumbered" not in ended.out)))


@pytest.mark.parametrize(
    "written", [b"\xff\xfe", b"", b"a\nb\na\n", b"".join(b"%d\n" % number for number in range(10**6))]
)
def test_class_lists(tmp_path: Path, written: bytes) -> None:
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            Image.new("L", (4, 3)).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "classes.txt").write_bytes(written)
    in_a_line(limited("data", "check", tmp_path), str(tmp_path / "classes.txt"))


@pytest.mark.parametrize("name", ["x/1.jpg", "a.tar", "a.parquet", "manifest.json", "annotations/instances_train.json"])
def test_pipes_do_not_block(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    in_a_line(limited("data", "check", tmp_path, seconds=30), str(path), "not a regular file")


@pytest.mark.slow
def test_memory_for_images_of_169_million_pixels(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for mode in ("L", "RGBA", "I;16"):
        Image.new(mode, (13_000, 13_000)).save(tmp_path / f"x/{mode[0]}.png", compress_level=1)
    ended = limited("data", "check", tmp_path, seconds=120)
    assert ended.status == 0 and "3 images, nothing broken" in ended.out
    assert ended.peak < 2.2 * 2**30
