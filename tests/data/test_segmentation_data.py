"""Images with a class for each pixel: layouts, classes, and every kind of bad label."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transxnet import DataError
from transxnet.data.images.reading import BadImageError
from transxnet.data.masks.classes import ade20k_classes, palette
from transxnet.data.masks.opening import SegmentationData, open_segmentation

LABELS = np.array([[0, 1, 2, 3], [3, 2, 255, 1], [1, 1, 1, 1]], np.uint8)  # 3 high, 4 wide
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(names)`` writes images with these names and their labels, and returns the folder."""

    def write(names: list[str], labels: Image.Image | None = None) -> Path:
        for name in names:
            for kind, suffix, picture in (
                ("images", "jpg", Image.new("RGB", (4, 3))),
                ("annotations", "png", labels or Image.fromarray(LABELS)),
            ):
                path = tmp_path / "data" / kind / f"{name}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
        return tmp_path / "data"

    return write


def opened(root: Path, *, reduce_zero_label: bool = False, **settings: Any) -> SegmentationData:
    return open_segmentation(str(root), reduce_zero_label=reduce_zero_label, **settings)


@pytest.mark.parametrize(("train", "validation"), [("training", "validation"), ("train", "val")])
def test_parts(make: Make, train: str, validation: str) -> None:
    data = opened(make([f"{train}/10", f"{train}/9", f"{validation}/1"]))
    assert data.train is not None
    assert [Path(data.train.name(i)).name for i in range(len(data.train))] == ["9.jpg", "10.jpg"]
    assert len(data.validation) == 1
    assert data.validation.load(0).size == (4, 3)


def test_a_single_validation_part(make: Make) -> None:
    data = opened(make(["validation/1"]))
    assert data.train is None and len(data.validation) == 1


def test_a_fifth_is_held_out_by_the_seed(make: Make) -> None:
    root = make([str(i) for i in range(20)])
    splits = []
    for seed in (0, 0, 1):
        data = opened(root, seed=seed)
        assert data.train is not None
        splits.append([[source.name(i) for i in range(len(source))] for source in (data.train, data.validation)])
    assert splits[0] == splits[1] != splits[2]
    assert len(splits[0][1]) == 4 and len({*splits[0][0], *splits[0][1]}) == 20


def test_labels_with_and_without_zero(make: Make) -> None:
    root = make(["val/a"])
    assert torch.equal(opened(root).validation.labels(0), torch.from_numpy(LABELS).long())
    reduced = opened(root, reduce_zero_label=True).validation
    assert reduced.labels(0).tolist() == [[255, 0, 1, 2], [2, 1, 255, 0], [0, 0, 0, 0]]
    assert reduced.class_names == ("class 1", "class 2", "class 3")
    assert reduced.labels(0).dtype == torch.int64


@pytest.mark.parametrize("mode", ["P", "I;16"])
def test_kinds_of_label_images(make: Make, mode: str) -> None:
    labels = Image.fromarray(LABELS.astype({"P": np.uint8, "I;16": np.uint16}[mode]))
    if mode == "P":
        labels.putpalette(palette(256).tobytes())
    assert labels.mode == mode
    source = opened(make(["val/a"], labels)).validation
    assert torch.equal(source.labels(0), torch.from_numpy(LABELS).long())


def test_classes_file(make: Make) -> None:
    root = make(["val/a"])
    (root / "classes.txt").write_text("\ufeffsky\nold tree #10ff20\n\nC# code\nwall\n", encoding="utf-8")
    source = opened(root).validation
    assert source.class_names == ("sky", "old tree", "C# code", "wall")
    assert source.colors.shape == (4, 3) and source.colors[1].tolist() == [16, 255, 32]


def test_labels_follow_a_networks_classes(make: Make) -> None:
    root = make(["val/a"])
    (root / "classes.txt").write_text("sky\ntree #010203\nroad\nwall\n")
    source = opened(root, classes=["wall", "road", "sky", "tree"]).validation
    assert source.labels(0).tolist() == [[2, 3, 1, 0], [0, 1, 255, 3], [3, 3, 3, 3]]
    assert source.class_names[3] == "tree" and source.colors[3].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="not the 2 expected: it has tree, road, wall and lacks sea"):
        opened(root, classes=["sky", "sea"])


def test_a_networks_classes_are_the_default(make: Make) -> None:
    names = ["a", "b", "c", "d"]
    assert opened(make(["val/a"]), classes=names).validation.class_names == tuple(names)


def test_ade20k_is_recognised_by_its_file_names(make: Make) -> None:
    root = make(["training/ADE_train_1", "validation/ADE_val_1"])
    source = opened(root, reduce_zero_label=True).validation
    names, colors = ade20k_classes()
    assert source.class_names == tuple(names) and np.array_equal(source.colors, colors)
    assert (names[0], names[7], names[149], len(set(names))) == ("wall", "bed", "flag", 150)
    assert colors[0].tolist() == [120, 120, 120]


def test_colours_differ() -> None:
    colors = palette(150).astype(int)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    assert (distances + 1000 * np.eye(150)).min() > 0
    few = distances[:20, :20] + 1000 * np.eye(20, dtype=int)
    assert few.min() > 60


def test_files_without_counterpart_are_dropped_and_counted(make: Make) -> None:
    root = make(["val/a", "val/b", "val/c"])
    (root / "images/val/a.jpg").unlink()
    (root / "annotations/val/b.png").unlink()
    source = opened(root).validation
    assert [Path(source.name(i)).stem for i in range(len(source))] == ["c"]
    assert source.findings.counts == {"images without labels (dropped)": 1, "labels without an image (dropped)": 1}


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("images", "has annotations/ but no images; it needs images/ and annotations/"),
        ("annotations", "has images/ but no masks; it needs images/ and annotations/"),
        ("annotations/train", r"images/train has no counterpart in .*annotations \(train\)"),
        ("images/val", r"annotations/val has no counterpart in .*images \(val\)"),
        ("images/val/a.jpg", "no image of .*images/val has labels of the same name in"),
    ],
)
def test_refused_folders(make: Make, remove: str, message: str) -> None:
    root = make(["train/a", "val/a"])
    (root / remove).rename(root / "removed")
    with pytest.raises(DataError, match=message):
        opened(root)


def test_other_refused_data(make: Make) -> None:
    with pytest.raises(DataError, match="does not exist"):
        opened(Path("nowhere"))
    root = make(["a"])
    with pytest.raises(DataError, match="single image"):
        opened(root)
    with pytest.raises(DataError, match="has 0 classes"):
        opened(make(["a", "b"], Image.new("L", (4, 3))), reduce_zero_label=True)
    Image.new("RGB", (4, 3)).save(root / "images/a.png")
    with pytest.raises(DataError, match=r"a.* and .*a.* differ only in their suffix"):
        opened(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no classes"), ("a\nb\na\n", "'a' is listed twice"), ("1: a\n1: b\n", "'b' has the value of another class")],
)
def test_refused_classes(make: Make, text: str, message: str) -> None:
    root = make(["val/a"])
    (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        opened(root)


BAD_LABELS: dict[str, tuple[Image.Image | bytes | None, str]] = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty file"),
    "text": (b"hello", "not an image"),
    "size": (Image.new("L", (5, 3)), "5 x 3"),
    "kind": (Image.new("LAB", (4, 3)), "a mask must be grey, have a palette or be RGB, not LAB"),
    "fractions": (Image.fromarray(np.full((3, 4), 0.5, np.float32)), "values of a mask must be whole numbers"),
    "deep": (Image.fromarray(np.full((3, 4), 2**24, np.int32)), "values of a mask must be below 16,777,216"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_named(make: Make, labels: Image.Image | bytes | None, message: str) -> None:
    root = make(["val/a"])
    source = opened(root).validation
    path = root / "annotations/val/a.png"
    path.unlink()
    if isinstance(labels, bytes):
        path.write_bytes(labels)
    elif labels:
        labels.save(path, "PNG" if labels.mode == "L" else "TIFF")
    with pytest.raises(BadImageError, match=message):
        source.labels(0)
    if message in ("no such file", "empty file", "not an image", "5 x 3"):
        with pytest.raises(BadImageError, match=message):
            source.load(0)


def test_damaged_labels_are_named(make: Make) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 4, (90, 90), np.uint8))
    root = make(["val/a"], noise)
    source = opened(root).validation
    path = root / "annotations/val/a.png"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(BadImageError, match="damaged"):
        source.labels(0)


@pytest.mark.parametrize("turned", [False, True])
def test_the_cameras_orientation_is_ignored_unless_labelled(make: Make, turned: bool) -> None:
    root = make(["val/a"], Image.fromarray(LABELS.T.copy()) if turned else None)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(root / "images/val/a.jpg", exif=exif)
    source = opened(root).validation
    assert source.load(0).size == source.labels(0).shape[::-1]
