"""COCO annotations: bad input of every kind is dropped and counted, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.coco_files import HEIGHT, TRIANGLE, WIDTH, annotation, content, only_first, ring, write
from transxnet import DataError
from transxnet.data.coco.opening import CocoSource, open_coco, open_coco_file
from transxnet.data.coco.run_lengths import from_mask, uncompressed
from transxnet.data.images.reading import BadImageError

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
    "neither box nor mask": ({"bbox": None, "segmentation": []}, "neither a box nor a mask"),
    "a category of text": ({"category_id": "cat"}, "category_id is not a whole number"),
    "a fraction of a category": ({"category_id": 3.5}, "category_id is not a whole number"),
    "an image of text": ({"image_id": "0.jpg"}, "without an image: image_id is not a whole number"),
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
    "size": ({"segmentation": uncompressed(ring().T)}, "another image size"),
    "compressed size": ({"segmentation": from_mask(ring().T)}, "another image size"),
    "short run lengths": ({"segmentation": {"size": GOOD_SIZE, "counts": [5, 6]}}, "do not fill"),
    "negative": ({"segmentation": {"size": GOOD_SIZE, "counts": [-5, 2005]}}, "do not fill"),
    "fractions": ({"segmentation": {"size": GOOD_SIZE, "counts": [0.5, 1999.5]}}, "do not fill"),
    "no counts": ({"segmentation": {"size": GOOD_SIZE}}, "do not fill"),
    "cut": ({"segmentation": {"size": GOOD_SIZE, "counts": from_mask(ring())["counts"][:-3]}}, "do not fill"),
    "garbage": ({"segmentation": {"size": GOOD_SIZE, "counts": "é~~~~~\x00"}}, "do not fill"),
    "endless": ({"segmentation": {"size": GOOD_SIZE, "counts": "o" * 500}}, "do not fill"),
}


@pytest.mark.parametrize(("changes", "kind"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_bad_annotations_are_dropped_and_counted(
    opened_coco: Callable[..., CocoSource], changes: dict[str, Any], kind: str
) -> None:
    source = opened_coco(only_first(**changes))
    counts = {key: count for key, count in source.findings.counts.items() if not key.startswith("images without")}
    assert len(counts) == 1 and kind in next(iter(counts))
    assert list(counts.values()) == [1]
    assert source.findings.examples[next(iter(counts))] == ["annotation 1"]
    assert [entry["id"] for entry in source.ground_truth()["annotations"]] == [2, 3]


def test_entries_that_are_not_objects_are_dropped(opened_coco: Callable[..., CocoSource], tmp_path: Path) -> None:
    opened_coco()
    described = content()
    described["annotations"].append("x")
    described["images"] += [7, {"id": 1}, {"id": 2, "file_name": "x.jpg", "height": 0, "width": 4}]
    source = open_coco_file(write(tmp_path / "a.json", described), tmp_path / "images")
    assert len(source) == 3
    assert list(source.findings.counts.values()) == [3, 1]


def test_invalid_polygons_are_dropped(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(segmentation=[*TRIANGLE, [1, 2, 3, 4]]))
    assert source.ground_truth()["annotations"][0]["segmentation"] == TRIANGLE
    assert list(source.findings.counts) == ["annotations with polygons of fewer than 3 points (those dropped)"]


@pytest.mark.parametrize("area", [0, -1, None, "5", math.nan])
def test_a_missing_area_is_computed(opened_coco: Callable[..., CocoSource], area: Any) -> None:
    source = opened_coco(only_first(area=area))
    assert source.ground_truth()["annotations"][0]["area"] == source.instances(0).masks().sum()
    assert sum(source.findings.counts.values()) == (area is not None)
    assert any("areas of 1 annotation " in line for line in source.findings.remarks) == (area is None)
    assert opened_coco(only_first(area=area, segmentation=[])).ground_truth()["annotations"][0]["area"] == 21 * 26


@pytest.mark.parametrize("number", [2, 10**30, 0, None, "x", -4])
def test_annotation_ids_become_positive_and_unique(opened_coco: Callable[..., CocoSource], number: Any) -> None:
    source = opened_coco(only_first(id=number))
    numbers = [entry["id"] for entry in source.ground_truth()["annotations"]]
    assert len(set(numbers)) == 3 and min(numbers) > 0 and 3 in numbers
    assert sum(source.findings.counts.values()) == (number != 0)  # ids may start at 0


def test_roboflows_group_is_not_a_class(opened_coco: Callable[..., CocoSource]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["categories"] = [
            {"id": 0, "name": "cat", "supercategory": "none"},
            {"id": 3, "name": "cat", "supercategory": "cat"},
        ]

    assert opened_coco(change).class_names == ("cat",)


REFUSED: dict[str, tuple[str, str]] = {
    "cut short": (json.dumps(content(), indent=1)[:-20], r"not JSON, or truncated: .* at line \d+, column \d+"),
    "empty": ("", "line 1, column 1"),
    "no UTF-8": ("\udcff{}", "not JSON"),
    "thousands of digits": ("1" * 5000, "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "list": ("[]", "has a list"),
    "number": ("3", "has a int"),
    "no annotations": (json.dumps({"images": [], "categories": []}), "lacks the list 'annotations'"),
    "captions": (json.dumps({"annotations": []}), "'images' and 'categories'"),
    "null": (json.dumps(content() | {"images": None}), "lacks the list 'images'"),
    "no image": (json.dumps(content() | {"images": []}), "no usable image"),
    "nothing annotated": (json.dumps(content() | {"annotations": []}), "no usable annotation"),
    "nothing usable": (
        json.dumps(content() | {"annotations": [annotation(1, 99)]}),
        r"no usable annotation: annotations without an image \(dropped\): 1 \(annotation 1\)",
    ),
    "no category": (json.dumps(content() | {"categories": []}), "has no categories"),
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
def test_refused_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=message) as caught:
        open_coco_file(path)
    assert str(path) in str(caught.value)


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_coco(str(tmp_path / "none"))
    with pytest.raises(DataError, match="has no COCO annotations; looked for"):
        open_coco(str(tmp_path))
    write(tmp_path / "b.json", content(1), tmp_path)
    with pytest.raises(DataError, match="single image"):
        open_coco(str(tmp_path))
    write(tmp_path / "c.json", content(1))
    with pytest.raises(DataError, match=r"several annotation files for one part: b.json, c.json"):
        open_coco(str(tmp_path))


def test_missing_images(opened_coco: Callable[..., CocoSource], tmp_path: Path) -> None:
    source = opened_coco()
    (tmp_path / "images/1.jpg").unlink()
    assert source.load(0).size == (WIDTH, HEIGHT)
    with pytest.raises(BadImageError, match=r"1.jpg: no such file"):
        source.load(1)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"none of the 3 images .* 0.jpg; looked in {tmp_path}, {tmp_path}/images"):
        open_coco_file(tmp_path / "a.json")


def test_an_image_of_the_wrong_size_is_bad(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(lambda described: described["images"][0].update(width=60))
    with pytest.raises(BadImageError, match="50 x 40 pixels, but its annotations are for 60 x 40"):
        source.load(0)


@pytest.mark.parametrize(("orientation", "annotated"), [(6, "stored"), (6, "seen"), (3, "stored")])
def test_the_cameras_orientation_is_ignored_unless_annotated(
    opened_coco: Callable[..., CocoSource], tmp_path: Path, orientation: int, annotated: str
) -> None:
    turned = annotated == "seen"
    source = opened_coco(lambda described: described["images"][0].update(height=50, width=40) if turned else None)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.paste((255, 255, 255), (0, 0, WIDTH, 20))  # white above
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "images/0.jpg", exif=exif)
    loaded = source.load(0)
    assert loaded.size == ((40, 50) if turned else (50, 40))
    white = (35, 25) if turned else (25, 5)  # rotated clockwise, the top is at the right
    assert loaded.getpixel(white) == (255, 255, 255)
