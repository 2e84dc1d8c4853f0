"""COCO annotations: layouts, what is learned from and judged by, and every kind of bad input."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as reference

from transxnet import DataError
from transxnet.data.coco import CocoSource, open_coco, open_coco_file
from transxnet.data.images import BadImageError
from transxnet.data.run_lengths import from_mask, uncompressed

HEIGHT, WIDTH = 40, 50
TRIANGLE = [[10.2, 5.0, 30.7, 8.3, 20.1, 30.9]]


def annotation(number: int, image: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 3,
        "bbox": [10, 5, 21, 26],
        "area": 270.0,
        "iscrowd": 0,
        "segmentation": TRIANGLE,
    } | changes


def content(images: int = 3) -> dict[str, Any]:
    """Images 10, 20, ... with one annotation each, of categories whose ids have gaps."""
    return {
        "images": [
            {"id": 10 * (i + 1), "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(images)
        ],
        "annotations": [annotation(i + 1, 10 * (i + 1)) for i in range(images)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write(path: Path, described: dict[str, Any], images: Path | None = None) -> Path:
    """An annotation file, and its images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described))
    for image in described["images"] if images else []:
        file = images / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(file)
    return path


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., CocoSource]:
    """``opened(change)`` lets ``change`` alter the usual content, and opens it."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda _: None, **settings: Any) -> CocoSource:
        described = content()
        change(described)
        return open_coco_file(write(tmp_path / "a.json", described, tmp_path / "images"), **settings)

    return make


def only_first(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda described: described["annotations"][0].update(changes)


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
    judged = content(4)
    for image in judged["images"]:
        image["file_name"] = f"v{image['file_name']}"
    write(tmp_path / train, content(3), tmp_path / train_images)
    write(tmp_path / validation, judged, tmp_path / validation_images)
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


def test_a_validation_file_alone_is_judged_by(tmp_path: Path) -> None:
    write(tmp_path / "annotations/instances_val2017.json", content(3), tmp_path / "val2017")
    for data in (tmp_path, tmp_path / "annotations/instances_val2017.json"):
        parts = open_coco(str(data))
        assert parts.train is None and len(parts.validation) == 3


def test_labels_count_categories_in_ascending_order_of_id(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(category_id=7))
    assert (source.class_names, source.category_ids) == (("cat", "dog"), (3, 7))
    assert [source.instances(i).labels.tolist() for i in range(3)] == [[1], [0], [0]]
    assert [entry["category_id"] for entry in source.ground_truth()["annotations"]] == [7, 3, 3]


def test_labels_take_the_order_of_a_network_s_classes(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(category_id=7), classes=["dog", "cat"])
    assert [source.instances(i).labels.tolist() for i in range(3)] == [[0], [1], [1]]
    assert [entry["category_id"] for entry in source.ground_truth()["annotations"]] == [7, 3, 3]
    with pytest.raises(DataError, match="not the 2 classes wanted: it has dog and lacks cow"):
        opened(classes=["cat", "cow"])


def test_parts_must_have_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.json", content(), tmp_path)
    described = content()
    described["categories"][0]["name"] = "wolf"
    write(tmp_path / "val.json", described, tmp_path)
    with pytest.raises(DataError, match="it has wolf and lacks dog"):
        open_coco(str(tmp_path))


def test_boxes_are_corners_within_the_image(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(bbox=[-3, 5.5, 10, 90]))
    assert torch.equal(source.instances(0).boxes, torch.tensor([[0.0, 5.5, 7.0, HEIGHT]]))
    assert source.ground_truth()["annotations"][0]["bbox"] == [0, 5.5, 7, HEIGHT - 5.5]
    assert source.findings.counts == {"annotations whose box reaches out of the image (cut)": 1}


def test_a_box_that_exceeds_the_image_by_rounding_is_judged_by_as_it_is(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(bbox=[29.5, 5, 20.51, 26]))
    assert source.instances(0).boxes[0, 2] == WIDTH
    assert source.ground_truth()["annotations"][0]["bbox"] == [29.5, 5, 20.51, 26]
    assert not source.findings.counts


def ring() -> np.ndarray[Any, Any]:
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    radius = (y - 20) ** 2 + (x - 20) ** 2
    return np.asarray((radius < 200) & (radius > 60))


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
def test_masks_are_pycocotools(opened: Callable[..., CocoSource], segmentation: Any) -> None:
    if isinstance(segmentation, list):
        expected = reference.decode(reference.merge(reference.frPyObjects(segmentation, HEIGHT, WIDTH)))
    elif isinstance(segmentation["counts"], list):
        expected = reference.decode(reference.frPyObjects(segmentation, HEIGHT, WIDTH))
    else:
        expected = reference.decode(segmentation)
    source = opened(only_first(segmentation=segmentation))
    assert np.array_equal(source.instances(0).masks().numpy(), expected[None].astype(bool))
    assert source.ground_truth()["annotations"][0]["segmentation"] == segmentation
    assert not source.findings.counts


def test_crowds_are_judged_by_and_not_learned_from(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(iscrowd=1, segmentation=uncompressed(ring())))
    assert len(source.instances(0).labels) == 0
    assert source.instances(0).boxes.shape == (0, 4)
    assert source.instances(0).masks().shape == (0, HEIGHT, WIDTH)
    assert [entry["iscrowd"] for entry in source.ground_truth()["annotations"]] == [1, 0, 0]
    assert len(source) == 3 and [image.id for image in source.trainable().images] == [20, 30]


def test_what_is_too_small_is_not_learned_from(opened: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"][0]["bbox"] = [3, 3, 0.9, 20]
        described["images"][1]["height"] = 31

    source = opened(change)
    assert [image.id for image in source.trainable().images] == [30]
    assert len(source.ground_truth()["annotations"]) == 3


def test_nothing_to_learn_from(opened: Callable[..., CocoSource]) -> None:
    with pytest.raises(DataError, match="no image to learn from"):
        opened(lambda described: [entry.update(iscrowd=1) for entry in described["annotations"]]).trainable()


def test_images_without_annotations_are_judged_by(opened: Callable[..., CocoSource]) -> None:
    source = opened(lambda described: described["annotations"].pop(1))
    assert len(source.instances(1).labels) == 0
    assert [image.id for image in source.trainable().images] == [10, 30]
    assert source.findings.counts == {"images without annotations (evaluated, not learned from)": 1}
    assert source.findings.lines() == ["images without annotations (evaluated, not learned from): 1 (1.jpg)"]


def test_a_subset_keeps_each_image_s_annotations(opened: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["annotations"].reverse()  # files are in any order
        described["annotations"].append(annotation(9, 30, bbox=[1, 2, 3, 4], segmentation=from_mask(ring())))
        described["images"][1].update(height=50, width=40)

    source = opened(change)
    part = source.subset([2, 0])
    assert [image.id for image in part.images] == [30, 10]
    assert [len(part.instances(i).labels) for i in range(2)] == [2, 1]
    assert torch.equal(part.instances(0).masks(), source.instances(2).masks())
    assert torch.equal(part.instances(1).masks(), source.instances(0).masks())
    assert {entry["id"] for entry in part.ground_truth()["annotations"]} == {1, 3, 9}
    assert source.landscape == [True, False, True]
    again = pickle.loads(pickle.dumps(part))
    assert again.ground_truth() == part.ground_truth()


def test_masks_may_be_absent(opened: Callable[..., CocoSource]) -> None:
    assert opened().has_masks
    for change in (only_first(segmentation=[]), only_first(segmentation=None)):
        source = opened(change)
        assert not source.has_masks
        assert len(source.instances(0).labels) == 1
        with pytest.raises(DataError, match="no mask"):
            source.instances(0).masks()
    source = opened(only_first(segmentation=[[1, 2]]), masks=False)
    assert not source.has_masks and len(source.instances(0).labels) == 1


GOOD_SIZE = [HEIGHT, WIDTH]
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image_id": 99}, "without an image"),
    "odd image id": ({"image_id": [1]}, "without an image"),
    "unknown category": ({"category_id": 4}, "unknown category"),
    "no width": ({"bbox": [1, 2, 0, 5]}, "box has no area"),
    "negative height": ({"bbox": [1, 2, 5, -5]}, "box has no area"),
    "outside": ({"bbox": [60, 2, 5, 5]}, "outside the image"),
    "nan box": ({"bbox": [1, 2, math.nan, 5]}, "box is not 4 numbers"),
    "infinite box": ({"bbox": [1, 2, math.inf, 5]}, "box is not 4 numbers"),
    "text box": ({"bbox": [1, 2, "3", 5]}, "box is not 4 numbers"),
    "short box": ({"bbox": [1, 2, 3]}, "box is not 4 numbers"),
    "null box": ({"bbox": None}, "box is not 4 numbers"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "fewer than 3 points"),
    "odd polygon": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "fewer than 3 points"),
    "flat polygon": ({"segmentation": [1, 2, 3, 4, 5, 6]}, "fewer than 3 points"),
    "text polygon": ({"segmentation": [["1", 2, 3, 4, 5, 6]]}, "not of numbers"),
    "nan polygon": ({"segmentation": [[math.nan, 2, 3, 4, 5, 6]]}, "not of numbers"),
    "polygon at infinity": ({"segmentation": [[1e12, 2, 3, 4, 5, 6]]}, "not of numbers"),
    "endless number": ({"bbox": [1, 2, 10**400, 5]}, "box is not 4 numbers"),
    "endless number in a polygon": ({"segmentation": [[10**400, 2, 3, 4, 5, 6]]}, "not of numbers"),
    "endless id": ({"image_id": 10**30}, "without an image"),
    "segmentation of a kind": ({"segmentation": "abc"}, "neither polygons nor run lengths"),
    "size": ({"segmentation": uncompressed(ring().T)}, "another size"),
    "compressed size": ({"segmentation": from_mask(ring().T)}, "another size"),
    "short run lengths": ({"segmentation": {"size": GOOD_SIZE, "counts": [5, 6]}}, "do not fill"),
    "negative": ({"segmentation": {"size": GOOD_SIZE, "counts": [-5, 2005]}}, "do not fill"),
    "fractions": ({"segmentation": {"size": GOOD_SIZE, "counts": [0.5, 1999.5]}}, "do not fill"),
    "no counts": ({"segmentation": {"size": GOOD_SIZE}}, "do not fill"),
    "cut": ({"segmentation": {"size": GOOD_SIZE, "counts": from_mask(ring())["counts"][:-3]}}, "do not fill"),
    "garbage": ({"segmentation": {"size": GOOD_SIZE, "counts": "é~~~~~\x00"}}, "do not fill"),
    "endless": ({"segmentation": {"size": GOOD_SIZE, "counts": "o" * 500}}, "do not fill"),
}


@pytest.mark.parametrize(("changes", "kind"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_bad_annotations_are_left_out_and_counted(
    opened: Callable[..., CocoSource], changes: dict[str, Any], kind: str
) -> None:
    source = opened(only_first(**changes))
    counts = {key: count for key, count in source.findings.counts.items() if not key.startswith("images without")}
    assert len(counts) == 1 and kind in next(iter(counts))
    assert list(counts.values()) == [1]
    assert source.findings.examples[next(iter(counts))] == ["annotation 1"]
    assert [entry["id"] for entry in source.ground_truth()["annotations"]] == [2, 3]


def test_what_is_no_object_is_left_out(opened: Callable[..., CocoSource], tmp_path: Path) -> None:
    opened()
    described = content()
    described["annotations"].append("x")
    described["images"] += [7, {"id": 1}, {"id": 2, "file_name": "x.jpg", "height": 0, "width": 4}]
    source = open_coco_file(write(tmp_path / "a.json", described), tmp_path / "images")
    assert len(source) == 3
    assert list(source.findings.counts.values()) == [3, 1]


def test_polygons_of_two_points_beside_a_good_one_are_left_out(opened: Callable[..., CocoSource]) -> None:
    source = opened(only_first(segmentation=[*TRIANGLE, [1, 2, 3, 4]]))
    assert source.ground_truth()["annotations"][0]["segmentation"] == TRIANGLE
    assert list(source.findings.counts) == ["annotations with polygons of fewer than 3 points (those left out)"]


@pytest.mark.parametrize("area", [0, -1, None, "5", math.nan])
def test_a_missing_area_is_the_mask_s(opened: Callable[..., CocoSource], area: Any) -> None:
    source = opened(only_first(area=area))
    assert source.ground_truth()["annotations"][0]["area"] == source.instances(0).masks().sum()
    assert sum(source.findings.counts.values()) == 1
    assert opened(only_first(area=area, segmentation=[])).ground_truth()["annotations"][0]["area"] == 21 * 26


@pytest.mark.parametrize("number", [2, 10**30, 0, None, "x", -4])
def test_annotation_ids_are_made_positive_and_different(opened: Callable[..., CocoSource], number: Any) -> None:
    source = opened(only_first(id=number))
    numbers = [entry["id"] for entry in source.ground_truth()["annotations"]]
    assert len(set(numbers)) == 3 and min(numbers) > 0 and 3 in numbers
    assert sum(source.findings.counts.values()) == (number != 0)  # counting from 0 is no mistake


def test_roboflow_s_group_is_no_class(opened: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["categories"] = [
            {"id": 0, "name": "cat", "supercategory": "none"},
            {"id": 3, "name": "cat", "supercategory": "cat"},
        ]

    assert opened(change).class_names == ("cat",)


REFUSED: dict[str, tuple[str, str]] = {
    "cut short": (json.dumps(content(), indent=1)[:-20], r"no JSON, or cut short: .* in line \d+, column \d+"),
    "empty": ("", "line 1, column 1"),
    "no UTF-8": ("\udcff{}", "no JSON"),
    "thousands of digits": ("1" * 5000, "no JSON"),
    "deep": ("[" * 100_000, "no JSON"),
    "list": ("[]", "holds a list"),
    "number": ("3", "holds a int"),
    "no annotations": (json.dumps({"images": [], "categories": []}), "lacks the list 'annotations'"),
    "captions": (json.dumps({"annotations": []}), "'images' and 'categories'"),
    "null": (json.dumps(content() | {"images": None}), "lacks the list 'images'"),
    "no image": (json.dumps(content() | {"images": []}), "no usable image"),
    "nothing annotated": (json.dumps(content() | {"annotations": []}), "no usable annotation"),
    "nothing usable": (
        json.dumps(content() | {"annotations": [annotation(1, 99)]}),
        r"no usable annotation: annotations without an image \(left out\): 1 \(annotation 1\)",
    ),
    "no category": (json.dumps(content() | {"categories": []}), "names no category"),
    "category without name": (json.dumps(content() | {"categories": [{"id": 3}]}), "a category needs"),
    "image id twice": (
        json.dumps(content() | {"images": content()["images"] + content()["images"][:1]}),
        "two images have the id 10",
    ),
    "category id twice": (
        json.dumps(content() | {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}),
        "two categories have the id 3",
    ),
    "category name twice": (
        json.dumps(content() | {"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}),
        "two categories are named 'a'",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=message) as caught:
        open_coco_file(path)
    assert str(path) in str(caught.value)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_coco(str(tmp_path / "none"))
    with pytest.raises(DataError, match="holds no COCO annotations; looked for"):
        open_coco(str(tmp_path))
    write(tmp_path / "b.json", content(1), tmp_path)
    with pytest.raises(DataError, match="single image"):
        open_coco(str(tmp_path))
    write(tmp_path / "c.json", content(1))
    with pytest.raises(DataError, match=r"several annotation files for one part: b.json, c.json"):
        open_coco(str(tmp_path))


def test_missing_images(opened: Callable[..., CocoSource], tmp_path: Path) -> None:
    source = opened()
    (tmp_path / "images/1.jpg").unlink()
    assert source.load(0).size == (WIDTH, HEIGHT)
    with pytest.raises(BadImageError, match=r"1.jpg: no such file"):
        source.load(1)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"none of the 3 images .* 0.jpg; looked in {tmp_path}, {tmp_path}/images"):
        open_coco_file(tmp_path / "a.json")


def test_an_image_of_another_size_than_annotated_is_bad(opened: Callable[..., CocoSource]) -> None:
    source = opened(lambda described: described["images"][0].update(width=60))
    with pytest.raises(BadImageError, match="50 x 40 pixels, but its annotations are for 60 x 40"):
        source.load(0)


@pytest.mark.parametrize(("orientation", "annotated"), [(6, "stored"), (6, "seen"), (3, "stored")])
def test_the_camera_s_rotation_is_left_unless_annotated(
    opened: Callable[..., CocoSource], tmp_path: Path, orientation: int, annotated: str
) -> None:
    turned = annotated == "seen"
    source = opened(lambda described: described["images"][0].update(height=50, width=40) if turned else None)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.paste((255, 255, 255), (0, 0, WIDTH, 20))  # white above
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "images/0.jpg", exif=exif)
    loaded = source.load(0)
    assert loaded.size == ((40, 50) if turned else (50, 40))
    white = (35, 25) if turned else (25, 5)  # turned clockwise, what was above is at the right
    assert loaded.getpixel(white) == (255, 255, 255)
