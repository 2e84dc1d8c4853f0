"""What COCO annotations mean: crowds, ids, categories, boxes, sizes and orientation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.coco_files import HEIGHT, TRIANGLE, WIDTH, annotation, content, only_first, ring, write
from transxnet import DataError
from transxnet.data.coco.opening import CocoSource, open_coco, open_coco_evaluation, open_coco_file
from transxnet.data.coco.orientation import Turn, inverse, turned_boxes, turned_masks, turned_size
from transxnet.data.coco.run_lengths import from_mask
from transxnet.data.coco.stratified import held_out_by_classes

Opened = Callable[..., CocoSource]


def all_annotations(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda described: [entry.update(changes) for entry in described["annotations"]]


def test_crowds_are_counted_and_taken_as_objects_on_request(opened_coco: Opened) -> None:
    def brush(described: dict[str, Any]) -> None:
        for entry in described["annotations"][:2]:
            entry.update(iscrowd=1, segmentation=from_mask(ring()))

    source = opened_coco(brush)
    (kind,) = source.findings.counts
    assert "--crowds as-objects" in kind and source.findings.counts[kind] == 2
    assert source.findings.examples[kind] == ["annotation 1", "annotation 2"]
    source = opened_coco(brush, crowds="as-objects")
    assert [len(source.instances(index).labels) for index in range(3)] == [1, 1, 1]
    assert torch.equal(source.instances(0).masks()[0], torch.from_numpy(ring()))
    assert [entry["iscrowd"] for entry in source.ground_truth()["annotations"]] == [0, 0, 0]
    assert source.findings.remarks == ["2 of 3 annotations are crowds taken as objects"] and not source.findings.counts


def test_few_crowds_are_remarked_on(opened_coco: Opened) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"] += [annotation(number, 10) for number in range(4, 20)]
        described["annotations"][0]["iscrowd"] = 1

    source = opened_coco(change)
    assert not source.findings.counts and "1 of 19 annotations are crowds" in source.findings.remarks[0]


def test_objects_without_a_mask_are_named(opened_coco: Opened) -> None:
    source = opened_coco(only_first(segmentation=[]))
    (kind,) = source.findings.counts
    assert kind.startswith("objects without a mask") and source.findings.examples[kind] == ["annotation 1"]
    instances = source.instances(0)
    assert instances.has_mask.tolist() == [False] and not instances.masks(empty=True).any()
    assert source.images_without_mask() == {0}
    assert not opened_coco(all_annotations(segmentation=[])).findings.counts  # boxes alone are usual
    assert not opened_coco(only_first(segmentation=[]), masks=False).findings.counts


@pytest.mark.parametrize("form", [str, float, lambda number: f" {number}.0"])
def test_ids_that_are_plainly_integers_are_read(opened_coco: Opened, form: Callable[[int], Any]) -> None:
    def change(described: dict[str, Any]) -> None:
        for group, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
            for entry in described[group]:
                entry.update({key: form(entry[key]) for key in keys})

    source = opened_coco(change)
    assert [image.id for image in source.images] == [10, 20, 30] and source.category_ids == (3, 7)
    assert [len(source.instances(index).labels) for index in range(3)] == [1, 1, 1]
    assert not source.findings.counts
    assert [remark.partition(",")[0] for remark in source.findings.remarks] == [
        "ids of 3 images",
        "ids of 3 annotations",
    ]


def test_repeated_ids_are_listed_with_their_indices(opened_coco: Opened, tmp_path: Path) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"][2]["id"] = 1

    (names,) = opened_coco(change).findings.examples.values()
    assert names == ["annotation 1 at index 2"]
    for group, message in (("images", "the id 10.*10 at indices 0, 3"), ("categories", "the id 7.*7 at indices 0, 2")):
        described = content()
        described[group].append(dict(described[group][0]))
        with pytest.raises(DataError, match=message):
            open_coco_file(write(tmp_path / "twice.json", described))


def test_a_file_may_have_fewer_classes_than_a_network(opened_coco: Opened) -> None:
    source = opened_coco(classes=["cow", "dog", "cat"])
    assert source.class_names == ("cow", "dog", "cat") and source.category_ids == (1, 7, 3)
    assert source.instances(0).labels.tolist() == [2]
    assert source.findings.remarks == ["a.json has no category for cow"]
    with pytest.raises(DataError, match="it has cat"):
        opened_coco(classes=["dog"])


def test_a_category_without_annotations_is_a_remark(opened_coco: Opened) -> None:
    source = opened_coco(classes=["cat"])
    assert source.class_names == ("cat",) and source.category_ids == (3,)
    assert source.findings.remarks == ["categories without annotations that are no classes: dog"]


@pytest.mark.parametrize(("written", "name"), [("caf\u00e9", "cafe\u0301"), ("Cat ", "cat")])
def test_class_names_match_in_any_composition_and_case(opened_coco: Opened, written: str, name: str) -> None:
    def change(described: dict[str, Any]) -> None:
        described["categories"][1]["name"] = written

    source = opened_coco(change, classes=["dog", name])
    assert source.class_names == ("dog", name) and source.instances(0).labels.tolist() == [1]
    assert not source.findings.counts


def test_a_group_of_categories_is_a_remark(opened_coco: Opened) -> None:
    def change(described: dict[str, Any]) -> None:
        described["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 3, "name": "cat", "supercategory": "animals"},
        ]

    source = opened_coco(change)
    assert source.class_names == ("cat",) and not source.findings.counts
    assert source.findings.remarks == ["categories that only group others are not classes: animals"]


@pytest.mark.parametrize("segmentation", [TRIANGLE, from_mask(ring())], ids=["polygon", "run lengths"])
@pytest.mark.parametrize("masks", [True, False])
def test_missing_boxes_are_computed_from_masks(opened_coco: Opened, segmentation: Any, masks: bool) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"][0].update(segmentation=segmentation, bbox=[])
        described["annotations"][1].pop("bbox")

    source = opened_coco(change, masks=masks)
    rows, columns = np.flatnonzero(ring().any(axis=1)), np.flatnonzero(ring().any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    expected = [10.2, 5.0, 30.7, 30.9] if segmentation is TRIANGLE else box
    assert source.instances(0).boxes[0].tolist() == pytest.approx(expected)
    assert source.instances(1).boxes[0].tolist() == pytest.approx([10.2, 5.0, 30.7, 30.9])
    assert not source.findings.counts
    assert source.findings.remarks == ["boxes of 2 annotations without one are computed from their masks"]


@pytest.mark.parametrize("size", [{}, {"height": None, "width": None}, {"height": 0, "width": 0}])
def test_missing_sizes_are_read_from_the_files(opened_coco: Opened, size: dict[str, Any]) -> None:
    def change(described: dict[str, Any]) -> None:
        for image in described["images"]:
            del image["height"], image["width"]
            image.update(size)

    source = opened_coco(change)
    assert {(image.height, image.width) for image in source.images} == {(HEIGHT, WIDTH)}
    assert source.load(0).size == (WIDTH, HEIGHT)
    assert source.findings.remarks == ["sizes of 3 images are read from their files: the annotations have none"]


def turned_file(path: Path, orientation: int) -> None:
    """A picture of which the pixels as stored are white above."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste((255, 255, 255), (0, 0, WIDTH, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


STORED, UPRIGHT = [2, 1, 46, 9], [31, 2, 9, 46]  # the white part, as x, y, width, height
FRAMES: dict[str, tuple[dict[str, Any], list[int], str]] = {
    "stored": ({"height": HEIGHT, "width": WIDTH}, STORED, "1 are annotated as stored, 0 upright; 0 of"),
    "upright": ({"height": WIDTH, "width": HEIGHT}, UPRIGHT, "0 are annotated as stored, 1 upright; 0 of"),
    "upright, size as stored": ({"height": HEIGHT, "width": WIDTH}, UPRIGHT, "0 are annotated as stored, 1 upright; 0"),
    "upright, no size": ({"height": None}, UPRIGHT, "0 are annotated as stored, 1 upright; 0 of"),
    "stored, no size": ({"height": None}, STORED, "1 are annotated as stored, 0 upright; 0 of"),
    "stored, one outside": ({"height": HEIGHT, "width": WIDTH}, [2, 1, 60, 60], "as stored, 0 upright; 1 of their"),
}


@pytest.mark.parametrize(("size", "box", "remark"), FRAMES.values(), ids=FRAMES)
def test_turned_images_are_read_in_the_frame_of_their_annotations(
    opened_coco: Opened, tmp_path: Path, size: dict[str, Any], box: list[int], remark: str
) -> None:
    opened_coco()
    turned_file(tmp_path / "images/0.jpg", 6)
    described = content()
    described["images"][0].update(size)
    described["annotations"][0].update(bbox=box, segmentation=[])
    source = open_coco_file(write(tmp_path / "a.json", described))
    assert remark in source.findings.remarks[-1]
    image, instances = source.upright(0)
    assert image.size == (HEIGHT, WIDTH)  # a network is shown what a viewer shows
    left, top, right, bottom = instances.boxes[0].round().int().tolist()
    if "1 of" not in remark:
        assert np.asarray(image)[top:bottom, left:right].min() > 200


@pytest.mark.parametrize("turn", list(Turn))
def test_boxes_and_masks_turn_with_their_image(turn: Turn) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 20:40] = True
    turned = np.asarray(Image.fromarray(mask).transpose(turn))
    size = turned_size((HEIGHT, WIDTH), turn)
    assert turned.shape == size
    assert np.array_equal(turned_masks(torch.from_numpy(mask)[None], turn)[0].numpy(), turned)
    rows, columns = np.flatnonzero(turned.any(axis=1)), np.flatnonzero(turned.any(axis=0))
    box = turned_boxes(torch.tensor([[20.0, 3.0, 40.0, 9.0]]), (HEIGHT, WIDTH), turn)
    assert box.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
    assert turned_boxes(box, size, inverse(turn)).tolist() == [[20, 3, 40, 9]]


def test_each_class_is_held_out_where_it_has_two_images() -> None:
    classes: list[set[int]] = [*[{0}] * 20, {0, 1}, {1}, *(set() for _ in range(10)), {2}]
    for seed in range(5):
        held = held_out_by_classes(classes, seed)
        assert np.array_equal(held, held_out_by_classes(classes, seed))
        labels = [label for index in np.flatnonzero(held) for label in classes[index]]
        assert labels.count(1) == 1 and labels.count(2) == 0 and 3 <= labels.count(0) <= 5
        assert sum(not classes[index] for index in np.flatnonzero(held)) == 2
    assert held_out_by_classes([{0}, {1}], 0).sum() == 1
    assert held_out_by_classes([set(), {1}], 0).tolist() == [True, False]


def test_the_held_out_part_holds_objects(tmp_path: Path) -> None:
    described = content(10)
    described["annotations"] = described["annotations"][:3]
    write(tmp_path / "annotations/all.json", described, tmp_path / "images")
    for seed in range(4):
        data = open_coco(str(tmp_path), seed=seed)
        assert data.train is not None
        assert [part.counts["cat"] for part in data.description().parts] == [2, 1]
    described["annotations"] = described["annotations"][:1]
    write(tmp_path / "annotations/all.json", described)
    data = open_coco(str(tmp_path))
    assert data.train is not None and len(data.train.trainable()) == 1
    assert "no validation image has an object" in data.findings.remarks[-1]


def test_training_images_that_are_too_small_are_named(tmp_path: Path) -> None:
    described = content(3)
    described["images"][0]["height"] = 20
    described["annotations"][1]["bbox"] = [3, 3, 0.5, 20]
    write(tmp_path / "train.json", described, tmp_path)
    write(tmp_path / "val.json", content(1), tmp_path)
    kinds = {kind.partition(" (")[0] for kind in open_coco(str(tmp_path)).findings.counts}
    assert kinds >= {"training images with a side below 32 pixels", "training objects narrower than a pixel"}


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", content(2), tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content(2)).encode())
    assert len(open_coco_evaluation(str(path), classes=["cat", "dog"]).validation) == 2
