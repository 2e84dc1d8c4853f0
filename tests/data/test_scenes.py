"""The embedded scenes: read by both readers, deterministic, with disjoint parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask

from transxnet import ConfigError
from transxnet.data.coco.opening import CocoSource, open_coco
from transxnet.data.masks.opening import open_segmentation
from transxnet.data.scene_painting import scene_materials
from transxnet.data.scenes import data_folder, polygons, scenes_folder, write_scenes

TRAIN, VALIDATION = 12, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=TRAIN, validation=VALIDATION)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def test_both_readers_read_them(folder: Path) -> None:
    instances = open_coco(str(folder))
    pixels = open_segmentation(str(folder), reduce_zero_label=True)
    assert instances.train is not None and pixels.train is not None
    assert (len(instances.train), len(instances.validation)) == (TRAIN, VALIDATION)
    assert (len(pixels.train), len(pixels.validation)) == (TRAIN, VALIDATION)
    assert instances.train.class_names == pixels.train.class_names[1:]
    assert pixels.train.class_names[:2] == ("background", "zero")
    assert not instances.validation.findings.counts and not pixels.validation.findings.counts
    for index in range(VALIDATION):
        assert instances.validation.name(index) == pixels.validation.name(index)
        assert instances.validation.load(index) == pixels.validation.load(index)


def test_objects_and_pixels_agree(folder: Path) -> None:
    source = open_coco(str(folder)).train
    pixels = open_segmentation(str(folder), reduce_zero_label=True).train
    assert source is not None and pixels is not None
    for index in range(TRAIN):
        objects, labels = source.instances(index), pixels.labels(index)
        masks = objects.masks()
        assert 1 <= len(masks) <= 7
        assert masks.sum(dim=0).max() == 1  # hidden pixels are in no mask
        for mask, label, box in zip(masks, objects.labels, objects.boxes, strict=True):
            assert (labels[mask] == label + 1).float().mean() > 0.9  # a polygon's border may be a pixel off
            rows, columns = torch.nonzero(mask, as_tuple=True)
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 1
            assert box[3] - box[1] >= 12
        assert {0, 255} < set(labels.unique().tolist())
        assert (labels != 255).float().mean() > 0.85


def test_all_formats_of_coco_occur(folder: Path) -> None:
    content = json.loads((folder / "annotations/instances_validation.json").read_text())
    segmentations = [entry["segmentation"] for entry in content["annotations"]]
    assert any(isinstance(each, list) for each in segmentations)
    assert any(isinstance(each, dict) and isinstance(each["counts"], str) for each in segmentations)
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert len(crowds) == 2 and all(isinstance(entry["segmentation"]["counts"], list) for entry in crowds)
    numbers = [category["id"] for category in content["categories"]]
    assert len(numbers) == 10 < numbers[-1]
    assert {entry["height"] > entry["width"] for entry in content["images"]} == {True, False}


def test_scenes_are_deterministic_for_a_seed(folder: Path, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "again", train=TRAIN, validation=VALIDATION)
    assert digest(again) == digest(folder)
    more = write_scenes(tmp_path / "more", train=TRAIN + 1, validation=1)
    name = "images/training/scene_000003.jpg"
    assert (more / name).read_bytes() == (folder / name).read_bytes()  # a scene depends only on its number
    other = write_scenes(tmp_path / "other", train=3, validation=1, seed=1)
    assert (other / name).read_bytes() != (folder / name).read_bytes()


def test_no_photograph_and_no_digit_is_in_both_parts() -> None:
    training, validation = scene_materials()
    for first, second in ((training.photographs, validation.photographs), (training.digits, validation.digits)):
        contents = [{np.ascontiguousarray(each).tobytes() for each in part} for part in (first, second)]
        assert not contents[0] & contents[1]
    assert (len(training.digits), len(validation.digits)) == (1437, 360)


def test_an_interrupted_folder_is_written_again(tmp_path: Path) -> None:
    written: list[int] = []

    def interrupt(count: int) -> None:
        written.append(count)
        if len(written) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes_folder(tmp_path, train=3, validation=1, advance=interrupt)
    folder = scenes_folder(tmp_path, train=3, validation=1, advance=written.append)
    assert sum(written) == 2 + 4
    assert len(open_coco(str(folder)).validation) == 1
    assert scenes_folder(tmp_path, train=3, validation=1, advance=written.append) == folder
    assert sum(written) == 6
    assert not list(folder.rglob("*.tmp*"))
    assert scenes_folder(tmp_path, train=1, validation=1) != folder


def test_a_cache_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transxnet").write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^.* cannot be written to .*: Not a directory\. Set XDG_CACHE_HOME .*$"):
        data_folder("scenes")


@pytest.mark.parametrize("settings", [{"train": 0}, {"validation": 0}, {"size": (40, 200)}])
def test_refused_settings(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        write_scenes(tmp_path, **settings)  # type: ignore[arg-type]


def test_polygons_reproduce_the_mask() -> None:
    y, x = np.ogrid[:60, :70]
    disk = (y - 30) ** 2 + (x - 20) ** 2 < 300
    mask = disk | ((y > 5) & (y < 20) & (x > 50) & (x < 66))
    outlines = polygons(mask)
    assert len(outlines) == 2
    again = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, 60, 70))).astype(bool)
    assert (again & mask).sum() / (again | mask).sum() > 0.93
    assert polygons(disk & ((y - 30) ** 2 + (x - 20) ** 2 > 50)) == []  # a hole


def found(source: CocoSource) -> list[dict[str, object]]:
    """The objects themselves, as a detector would report them."""
    results: list[dict[str, object]] = []
    for index, image in enumerate(source.images):
        objects = source.instances(index)
        for box, label, mask in zip(objects.boxes.tolist(), objects.labels, objects.masks(), strict=True):
            left, top, right, bottom = box
            results.append(
                {
                    "image_id": image.id,
                    "category_id": source.category_ids[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))),
                    "score": 0.9,
                }
            )
    return results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_scores_perfectly(folder: Path, kind: str) -> None:
    source = open_coco(str(folder)).validation
    truth = COCO(source.ground_truth())
    evaluation = COCOeval_faster(truth, truth.loadRes(found(source)), kind, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
