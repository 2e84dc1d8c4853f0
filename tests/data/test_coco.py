"""COCO annotations: layouts, training and evaluation."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as reference

from helpers.coco_files import HEIGHT, TRIANGLE, WIDTH, annotation, content, only_first, ring, write
from transxnet import DataError
from transxnet.data.coco.opening import CocoSource, open_coco
from transxnet.data.coco.run_lengths import from_mask, uncompressed

LAYOUTS = {  # annotation file and image folder of each part
    "coco": (("annotations/instances_train2017.json", "train2017"), ("annotations/instances_val2017.json", "val2017")),
    "coco in images": (
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
    ),
    "parts": (("annotations/train.json", "train"), ("annotations/val.json", "val")),
    "parts in images": (
        ("annotations/my_training.json", "images/training"),
        ("annotations/my_validation.json", "images/validation"),
    ),
    "images": (("annotations/train.json", "images"), ("annotations/val.json", "images")),
    "root": (("train.json", ""), ("val.json", "")),
    "roboflow": (("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid")),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path: Path, layout: tuple[tuple[str, str], tuple[str, str]]) -> None:
    (train, train_images), (validation, validation_images) = layout
    validation_content = content(4)
    for image in validation_content["images"]:
        image["file_name"] = f"v{image['file_name']}"
    write(tmp_path / train, content(3), tmp_path / train_images)
    write(tmp_path / validation, validation_content, tmp_path / validation_images)
    if "instances" in train:
        write(tmp_path / "annotations/captions_train2017.json", {"images": []})
    data = open_coco(str(tmp_path))
    assert data.train is not None
    assert (len(data.train), len(data.validation)) == (3, 4)
    assert data.train.name(2) == str(tmp_path / train_images / "2.jpg")
    for source in (data.train, data.validation):
        assert source.load(0).size == (WIDTH, HEIGHT)


def test_a_fifth_of_a_single_file_is_held_out_by_the_seed(tmp_path: Path) -> None:
    write(tmp_path / "annotations/all.json", content(20), tmp_path / "images")
    splits = []
    for seed in (0, 0, 1):
        data = open_coco(str(tmp_path), seed=seed)
        assert data.train is not None
        splits.append([[image.id for image in source.images] for source in (data.train, data.validation)])
    assert splits[0] == splits[1] != splits[2]
    assert len(splits[0][1]) == 4
    assert sorted(splits[0][0] + splits[0][1]) == [10 * (i + 1) for i in range(20)]


def test_a_single_validation_file(tmp_path: Path) -> None:
    write(tmp_path / "annotations/instances_val2017.json", content(3), tmp_path / "val2017")
    for data in (tmp_path, tmp_path / "annotations/instances_val2017.json"):
        parts = open_coco(str(data))
        assert parts.train is None and len(parts.validation) == 3


def test_labels_follow_ascending_category_ids(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(category_id=7))
    assert (source.class_names, source.category_ids) == (("cat", "dog"), (3, 7))
    assert [source.instances(i).labels.tolist() for i in range(3)] == [[1], [0], [0]]
    assert [entry["category_id"] for entry in source.ground_truth()["annotations"]] == [7, 3, 3]


def test_labels_follow_a_networks_classes(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(category_id=7), classes=["dog", "cat"])
    assert [source.instances(i).labels.tolist() for i in range(3)] == [[0], [1], [1]]
    assert [entry["category_id"] for entry in source.ground_truth()["annotations"]] == [7, 3, 3]
    with pytest.raises(DataError, match="not the 2 expected classes: it has dog and lacks cow"):
        opened_coco(classes=["cat", "cow"])


def test_parts_must_have_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.json", content(), tmp_path)
    described = content()
    described["categories"][0]["name"] = "wolf"
    write(tmp_path / "val.json", described, tmp_path)
    with pytest.raises(DataError, match="it has wolf and lacks dog"):
        open_coco(str(tmp_path))


def test_boxes_are_corners_within_the_image(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(bbox=[-3, 5.5, 10, 90]))
    assert torch.equal(source.instances(0).boxes, torch.tensor([[0.0, 5.5, 7.0, HEIGHT]]))
    assert source.ground_truth()["annotations"][0]["bbox"] == [0, 5.5, 7, HEIGHT - 5.5]
    assert source.findings.counts == {"annotations whose box exceeds the image (clipped)": 1}


def test_rounding_of_boxes_is_kept_for_evaluation(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(bbox=[29.5, 5, 20.51, 26]))
    assert source.instances(0).boxes[0, 2] == WIDTH
    assert source.ground_truth()["annotations"][0]["bbox"] == [29.5, 5, 20.51, 26]
    assert not source.findings.counts


def corner() -> np.ndarray[Any, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[0, 0] = mask[:, -1] = True
    return mask


SEGMENTATIONS: dict[str, Any] = {
    "polygon": TRIANGLE,
    "polygons": [*TRIANGLE, [35.5, 20.1, 45.0, 20.3, 45.3, 39.9, 35.1, 39.5]],
    "polygon out of the image": [[-5.0, -3.0, 60.0, 10.5, 20.1, 70.0]],
    "run lengths": uncompressed(ring()),
    "compressed": from_mask(ring()),
    "full from the first pixel": uncompressed(corner()),
    "compressed from the first pixel": from_mask(corner()),
    "empty": uncompressed(np.zeros((HEIGHT, WIDTH), np.bool_)),
}


@pytest.mark.parametrize("segmentation", SEGMENTATIONS.values(), ids=SEGMENTATIONS)
def test_masks_match_pycocotools(opened_coco: Callable[..., CocoSource], segmentation: Any) -> None:
    if isinstance(segmentation, list):
        expected = reference.decode(reference.merge(reference.frPyObjects(segmentation, HEIGHT, WIDTH)))
    elif isinstance(segmentation["counts"], list):
        expected = reference.decode(reference.frPyObjects(segmentation, HEIGHT, WIDTH))
    else:
        expected = reference.decode(segmentation)
    source = opened_coco(only_first(segmentation=segmentation))
    assert np.array_equal(source.instances(0).masks().numpy(), expected[None].astype(bool))
    assert source.ground_truth()["annotations"][0]["segmentation"] == segmentation
    assert not source.findings.counts


def test_crowds_are_evaluated_but_not_trained_on(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(iscrowd=1, segmentation=uncompressed(ring())))
    assert len(source.instances(0).labels) == 0
    assert source.instances(0).boxes.shape == (0, 4)
    assert source.instances(0).masks().shape == (0, HEIGHT, WIDTH)
    assert [entry["iscrowd"] for entry in source.ground_truth()["annotations"]] == [1, 0, 0]
    assert len(source) == 3 and [image.id for image in source.trainable().images] == [20, 30]


def test_small_objects_are_not_trained_on(opened_coco: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"][0]["bbox"] = [3, 3, 0.9, 20]
        described["images"][1]["height"] = 31

    source = opened_coco(change)
    assert [image.id for image in source.trainable().images] == [30]
    assert len(source.ground_truth()["annotations"]) == 3


def test_no_training_images(opened_coco: Callable[..., CocoSource]) -> None:
    with pytest.raises(DataError, match="no usable training image"):
        opened_coco(lambda described: [entry.update(iscrowd=1) for entry in described["annotations"]]).trainable()


def test_images_without_annotations_are_evaluated(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(lambda described: described["annotations"].pop(1))
    assert len(source.instances(1).labels) == 0
    assert [image.id for image in source.trainable().images] == [10, 30]
    assert source.findings.counts == {"images without annotations (evaluated, not trained on)": 1}
    assert source.findings.lines() == ["images without annotations (evaluated, not trained on): 1 (1.jpg)"]


def test_a_subset_keeps_annotations(opened_coco: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"].reverse()  # files are in any order
        described["annotations"].append(annotation(9, 30, bbox=[1, 2, 3, 4], segmentation=from_mask(ring())))
        described["images"][1].update(height=50, width=40)

    source = opened_coco(change)
    part = source.subset([2, 0])
    assert [image.id for image in part.images] == [30, 10]
    assert [len(part.instances(i).labels) for i in range(2)] == [2, 1]
    assert torch.equal(part.instances(0).masks(), source.instances(2).masks())
    assert torch.equal(part.instances(1).masks(), source.instances(0).masks())
    assert {entry["id"] for entry in part.ground_truth()["annotations"]} == {1, 3, 9}
    assert source.landscape == [True, False, True]
    again = pickle.loads(pickle.dumps(part))
    assert again.ground_truth() == part.ground_truth()


def test_masks_may_be_absent(opened_coco: Callable[..., CocoSource]) -> None:
    assert opened_coco().has_masks
    for change in (only_first(segmentation=[]), only_first(segmentation=None)):
        source = opened_coco(change)
        assert not source.has_masks
        assert len(source.instances(0).labels) == 1
        with pytest.raises(DataError, match="no mask"):
            source.instances(0).masks()
    source = opened_coco(only_first(segmentation=[[1, 2]]), masks=False)
    assert not source.has_masks and len(source.instances(0).labels) == 1
