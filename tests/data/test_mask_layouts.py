"""Finding images and their masks in the layouts that annotation tools and public data sets have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transxnet import DataError
from transxnet.data.masks.layout import holds_masks
from transxnet.data.masks.opening import SegmentationData, open_segmentation

VALUES = np.array([[0, 1], [1, 0]], np.uint8)


def fill(root: Path, images: str, masks: str) -> Path:
    """Write images and masks under the names of two lines of words; a word with a dot is a list of names."""
    for name in images.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    for name in masks.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(VALUES).save(root / name)
    return root


def opened(root: Path) -> SegmentationData:
    assert holds_masks(root)
    return open_segmentation(str(root), reduce_zero_label=False)


def pairs(data: SegmentationData, root: Path) -> dict[str, tuple[str, ...]]:
    """For each part, the masks by their names below the root."""
    sources = {"train": data.train, "val": data.validation}
    return {
        part: tuple(sorted(path.relative_to(root).as_posix() for path in source.label_files))
        for part, source in sources.items()
        if source is not None
    }


LAYOUTS: dict[str, tuple[str, str, str, str]] = {  # images, masks, the masks of train, of val
    "masks": ("images/train/a.jpg images/val/b.jpg", "masks/train/a.png masks/val/b.png",
        "masks/train/a.png", "masks/val/b.png"),
    "labels, any case": ("Images/Train/a.JPG Images/Val/b.jpg", "Labels/Train/a.PNG Labels/Val/b.png",
        "Labels/Train/a.PNG", "Labels/Val/b.png"),
    "parts first": ("train/images/a.jpg valid/images/b.jpg", "train/masks/a.png valid/masks/b.png",
        "train/masks/a.png", "valid/masks/b.png"),
    "folders beside": ("train/a.png val/b.png", "trainannot/a.png valannot/b.png",
        "trainannot/a.png", "valannot/b.png"),
    "files beside": ("train/a.jpg valid/b.jpg", "train/a_mask.png valid/b_mask.png",
        "train/a_mask.png", "valid/b_mask.png"),
    "Cityscapes": ("leftImg8bit/train/ulm/a_leftImg8bit.png leftImg8bit/val/bonn/b_leftImg8bit.png",
        "gtFine/train/ulm/a_gtFine_labelIds.png gtFine/train/ulm/a_gtFine_color.png "
        "gtFine/train/ulm/a_gtFine_labelTrainIds.png gtFine/val/bonn/b_gtFine_labelIds.png",
        "gtFine/train/ulm/a_gtFine_labelTrainIds.png", "gtFine/val/bonn/b_gtFine_labelIds.png"),
    "other names": ("images/train/1.jpg images/val/2.jpg", "masks/train/mask_1.png masks/val/2-mask.tif",
        "masks/train/mask_1.png", "masks/val/2-mask.tif"),
    "a test part without masks": ("images/train/a.jpg images/val/b.jpg images/test/c.jpg",
        "masks/train/a.png masks/val/b.png", "masks/train/a.png", "masks/val/b.png"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    images, masks, train, val = LAYOUTS[layout]
    data = opened(fill(tmp_path, images, masks))
    assert pairs(data, tmp_path) == {"train": (train,), "val": (val,)}
    assert not data.validation.findings.counts
    assert data.description().parts[1].images == 1


def test_pascal_vocs_lists_choose_the_images(tmp_path: Path) -> None:
    names = [f"2007_{index}" for index in range(4)]
    fill(tmp_path, " ".join(f"JPEGImages/{name}.jpg" for name in [*names, "other"]),
        " ".join(f"SegmentationClass/{name}.png SegmentationObject/{name}.png" for name in names))  # fmt: skip
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_0\n2007_1\nlost\n")
    (lists / "val.txt").write_text("2007_2\n")
    data = opened(tmp_path)
    assert pairs(data, tmp_path) == {
        "train": ("SegmentationClass/2007_0.png", "SegmentationClass/2007_1.png"),
        "val": ("SegmentationClass/2007_2.png",),
    }
    assert data.validation.findings.counts == {"listed images without a file (dropped)": 1}


def test_a_cvat_export_is_read_by_its_table(tmp_path: Path) -> None:
    fill(tmp_path, " ".join(f"JPEGImages/{index}.png" for index in range(5)), "")
    (tmp_path / "SegmentationClass").mkdir()
    for index in range(5):
        colors = np.where(VALUES[..., None] > 0, (250, 50, 83), (0, 0, 0)).astype(np.uint8)
        Image.fromarray(colors).save(tmp_path / f"SegmentationClass/{index}.png")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("0\n1\n2\n3\n4\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
    data = opened(tmp_path)
    assert data.train is not None and (len(data.train), len(data.validation)) == (4, 1)
    assert data.validation.class_names == ("background", "cat")
    assert data.validation.labels(0).tolist() == VALUES.tolist()


def test_a_table_beside_the_masks_of_a_part(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.jpg valid/b.jpg", "train/a_mask.png valid/b_mask.png")
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, crack\n")
    assert opened(tmp_path).validation.class_names == ("background", "crack")


@pytest.mark.parametrize(
    ("images", "masks"), [("a/1.jpg b/2.jpg", ""), ("images/1.jpg", ""), ("train/images/a.jpg", "")]
)
def test_other_folders(images: str, masks: str, tmp_path: Path) -> None:
    root = fill(tmp_path, images, masks)
    (root / "labels").mkdir()
    (root / "labels/1.txt").write_text("0 0.5 0.5 1 1")
    assert not holds_masks(root)
    with pytest.raises(DataError, match=r"it needs images/ and annotations/ \(or masks/, labels/\)"):
        open_segmentation(str(root), reduce_zero_label=False)
