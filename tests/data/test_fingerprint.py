"""A data set that changes between a run's stop and its resumption: what is reported, and what stays held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.coco_files import annotation, content, write
from helpers.packed_files import fill
from transxnet.data.coco.opening import open_coco
from transxnet.data.fingerprint import Fingerprint, image_changes, same_images, with_split_of
from transxnet.data.masks.opening import open_segmentation
from transxnet.data.sources import open_data
from transxnet.errors import CheckpointError, DataError


def labelled(root: Path) -> Any:
    return open_data(str(root))


def segmented(root: Path) -> Any:
    return open_segmentation(str(root), reduce_zero_label=False)


def instances(root: Path) -> Any:
    """The images of a folder, annotated anew in one file."""
    names = sorted(path.name for path in (root / "images").iterdir())
    described = content()
    box = {"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32}
    described["images"] = [
        {"id": number, "file_name": name, "width": 36, "height": 40} for number, name in enumerate(names)
    ]
    described["annotations"] = [annotation(number, number, **box) for number in range(len(names))]
    write(root / "annotations.json", described)
    return open_coco(str(root))


def image(folder: str, index: int) -> list[str]:
    if folder == "masks":
        return [f"images/{index}.png", f"annotations/{index}.png"]
    return [f"images/{index}.png"] if folder == "boxes" else [f"{name}/{index}.png" for name in "ab"]


def put(root: Path, folder: str, *indices: int) -> None:
    for index in indices:
        for name in image(folder, index):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L" if name.startswith("annotations") else "RGB", (36, 40), index % 2).save(root / name)


def remove(root: Path, folder: str, *indices: int) -> None:
    for index in indices:
        for name in image(folder, index):
            (root / name).unlink()


def names(source: Any) -> set[str]:
    return {source.name(index) for index in range(len(source))}


@pytest.mark.parametrize(("folder", "opened"), [("classes", labelled), ("boxes", instances), ("masks", segmented)])
def test_held_out_images_stay_held_out(folder: str, opened: Callable[[Path], Any], tmp_path: Path) -> None:
    put(tmp_path, folder, *range(10))
    data = opened(tmp_path)
    before = Fingerprint.from_state(Fingerprint.of(data, tmp_path).state())
    again = opened(tmp_path)
    assert image_changes(before, Fingerprint.of(again, tmp_path), again, tmp_path) == []
    learned, held = names(data.train), names(data.validation)
    remove(tmp_path, folder, 0, 5)
    put(tmp_path, folder, *range(20, 60))
    changed = opened(tmp_path)
    added, removed = image_changes(before, Fingerprint.of(changed, tmp_path), changed, tmp_path)
    each = 2 if folder == "classes" else 1
    assert added.startswith(f"{40 * each} images added (") and removed == f"{2 * each} images removed"
    kept = with_split_of(before, changed, tmp_path)
    assert names(kept.validation) == {name for name in held if Path(name).exists()}
    assert not names(kept.validation) & learned and names(kept.train) | names(kept.validation) == names(
        changed.everything
    )
    assert same_images(Fingerprint.of(kept, tmp_path), Fingerprint.of(changed, tmp_path))


def test_images_moved_between_the_parts_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, [f"{part}/{name}/{part[0]}{i}.png" for part in ("train", "val") for name in "ab" for i in range(4)])
    before = Fingerprint.of(labelled(tmp_path), tmp_path)
    (tmp_path / "train/a/t0.png").rename(tmp_path / "val/a/t0.png")
    (tmp_path / "val/b/v0.png").rename(tmp_path / "train/b/v0.png")
    fill(tmp_path, ["train/a/new.png", "val/b/new.png"])
    data = labelled(tmp_path)
    assert len(image_changes(before, Fingerprint.of(data, tmp_path), data, tmp_path)) == 4
    kept = with_split_of(before, data, tmp_path)
    assert {Path(name).name for name in names(data.train) - names(kept.train)} == {"v0.png"}
    assert {Path(name).name for name in names(data.validation) - names(kept.validation)} == {"t0.png"}


def test_a_new_order_or_other_labels_are_noticed(tmp_path: Path) -> None:
    fill(tmp_path, [f"{name}/{i}.png" for name in "ab" for i in range(4)])
    data = labelled(tmp_path)
    before = Fingerprint.of(data, tmp_path)
    targets = list(data.train.targets)
    data.train.targets[:] = targets[::-1]
    now = Fingerprint.of(data, tmp_path)
    assert image_changes(before, now, data, tmp_path) == ["the order or the labels of the images"]


def test_data_without_any_image_of_before_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "one", "classes", *range(4))
    put(tmp_path / "two", "classes", *range(10, 14))
    before = Fingerprint.of(labelled(tmp_path / "one"), tmp_path / "one")
    with pytest.raises(DataError, match="no validation image is left"):
        with_split_of(before, labelled(tmp_path / "two"), tmp_path / "two")


@pytest.mark.parametrize("state", [{}, {"class_names": "[1]"}, {"class_names": "["}, {"train.paths": [1]}])
def test_a_damaged_fingerprint_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path, "classes", *range(4))
    whole = Fingerprint.of(labelled(tmp_path), tmp_path).state()
    with pytest.raises(CheckpointError, match="fingerprint of the data is damaged"):
        Fingerprint.from_state(whole | state if state else {})
