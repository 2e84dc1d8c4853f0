"""Layouts of annotated objects as annotation tools export them, and the images that their files name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.coco_files import HEIGHT, WIDTH, annotation, content, write
from transxnet import ConfigError, DataError
from transxnet.data.coco.opening import open_coco, open_coco_evaluation
from transxnet.data.dense_data_check import DenseCheck, is_annotated
from transxnet.data.sources import open_data, open_parts
from transxnet.tasks import default_recipe


def named(*names: str) -> dict[str, Any]:
    """Annotations of images with these names."""
    described = content(len(names))
    for image, name in zip(described["images"], names, strict=True):
        image["file_name"] = name
    return described


def picture(path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path, **settings)


EXPORTS: dict[str, tuple[dict[str, list[str]], list[str], str, int, int]] = {
    # names by annotation file, image files, the layout's name, numbers of training and validation images
    "cvat": (
        {"annotations/instances_default.json": ["a.jpg", "b.jpg", "c.jpg"]},
        ["images/default/a.jpg", "images/default/b.jpg", "images/default/c.jpg"],
        "CVAT",
        2,
        1,
    ),
    "cvat, two subsets": (
        {"annotations/instances_one.json": ["a.jpg", "b.jpg"], "annotations/instances_two.json": ["c.jpg"]},
        ["images/one/a.jpg", "images/one/b.jpg", "images/two/c.jpg"],
        "CVAT",
        2,
        1,
    ),
    "cvat, capitals": (
        {"annotations/instances_Train.json": ["a.jpg"], "annotations/instances_Validation.json": ["a.jpg"]},
        ["images/Train/a.jpg", "images/Validation/a.jpg"],
        "COCO",
        1,
        1,
    ),
    "label studio": (
        {"result.json": ["images\\1f2e3d4c-a.jpg", "/data/upload/1/1f2e3d4c-b.jpg", "../../media/0a1b2c3d-c.jpg"]},
        ["images/1f2e3d4c-a.jpg", "images/1f2e3d4c-b.jpg", "images/c.jpg"],
        "Label Studio",
        2,
        1,
    ),
    "roboflow": (
        {f"{part}/_annotations.coco.json": [f"{part}.jpg"] for part in ("train", "valid", "test")},
        ["train/train.jpg", "valid/valid.jpg", "test/test.jpg"],
        "Roboflow",
        1,
        1,
    ),
    "flat": (
        {"train.json": ["a.jpg", "b.jpg"], "val.json": ["c.jpg"]},
        ["images/a.jpg", "images/b.jpg", "images/c.jpg"],
        "beside the images",
        2,
        1,
    ),
    "fiftyone": ({"labels.json": ["a.jpg", "b.jpg"]}, ["data/a.jpg", "data/b.jpg"], "beside the images", 1, 1),
    "an archive's folder": (
        {"my-task/annotations/instances_default.json": ["a.jpg", "b.jpg"]},
        ["my-task/images/default/a.jpg", "my-task/images/default/b.jpg"],
        "CVAT",
        1,
        1,
    ),
    "folders of tasks": (
        {"monday/annotations.json": ["a.jpg"], "tuesday/annotations.json": ["b.jpg"]},
        ["monday/a.jpg", "tuesday/b.jpg"],
        "by folders",
        1,
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_exports_of_annotation_tools(export: tuple[Any, ...], tmp_path: Path) -> None:
    files, images, name, train, validation = export
    for path, names in files.items():
        write(tmp_path / path, named(*names))
    for image in images:
        picture(tmp_path / image)
    assert is_annotated(str(tmp_path))
    data = open_coco(str(tmp_path))
    assert data.train is not None and (len(data.train), len(data.validation)) == (train, validation)
    found = {source.name(index) for source in (data.train, data.validation) for index in range(len(source))}
    assert found <= {str(tmp_path / image) for image in images} and len(found) == train + validation
    assert not data.findings.counts
    assert name in data.description().layout
    for classified in (open_data, open_parts) if name != "by folders" else ():
        with pytest.raises(DataError, match="no class folders|separate folder"):
            classified(str(tmp_path))
    with pytest.raises(ConfigError, match="has annotations: for boxes and masks, name a recipe"):
        default_recipe(None, str(tmp_path))


def test_the_description_names_layout_parts_and_objects(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        write(tmp_path / part / "_annotations.coco.json", named(*(f"{i}.jpg" for i in range(count))), tmp_path / part)
    description = DenseCheck(str(tmp_path)).description
    assert description == open_coco(str(tmp_path)).description()
    train, validation = description.parts
    assert (train.name, train.images, train.unit, train.counts) == ("training", 3, "objects", {"cat": 3, "dog": 0})
    assert (validation.images, validation.origin) == (2, "valid/_annotations.coco.json")
    assert description.findings.remarks == ["test is not used: valid is the validation part"]


LABELME = {"version": "5.4", "flags": {}, "shapes": [{"label": "cat", "points": [[1, 2]]}], "imagePath": "a.jpg"}
FOREIGN: dict[str, tuple[str, str, str]] = {
    "labelme": ("a.json", json.dumps(LABELME), "labelme .*labelme2coco"),
    "labelme in images": ("images/a.json", json.dumps(LABELME), "labelme"),
    "label studio": ("export.json", '[{"id": 1, "annotations": [{"result": []}]}]', "Label Studio's own JSON"),
    "via": ("via.json", '{"_via_settings": {}, "_via_img_metadata": {}}', "VGG Image Annotator"),
    "createml": ("_annotations.json", '[{"image": "a.jpg", "annotations": [{"coordinates": {}}]}]', "CreateML"),
    "results": ("detections.json", '[{"image_id": 1, "score": 0.5, "bbox": []}]', "results format"),
    "voc": ("Annotations/a.xml", "<annotation><object></object></annotation>", "Pascal VOC"),
    "cvat": ("annotations.xml", '<annotations><image id="0"><box/></image></annotations>', "CVAT's own XML"),
    "supervisely": ("ann/a.jpg.json", '{"objects": [{"classTitle": "cat"}]}', "Supervisely"),
    "datumaro": ("annotations/default.json", '{"categories": {}, "items": []}', "Datumaro"),
    "yolo by parts": ("train/labels/a.txt", "0 0.5 0.5 0.25 0.25\n", "YOLO"),
    "yolo": ("labels/train/a.txt", "0 0.5 0.5 0.25 0.25\n", "YOLO"),
}


@pytest.mark.parametrize(("path", "text", "message"), FOREIGN.values(), ids=FOREIGN)
def test_other_formats_are_named(path: str, text: str, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert is_annotated(str(tmp_path))
    with pytest.raises(DataError, match=f"has no COCO annotations.*{message}"):
        open_coco(str(tmp_path))
    with pytest.raises(DataError, match=f"no class folders but annotated objects.*{message}"):
        open_parts(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        default_recipe(None, str(tmp_path))


def test_class_folders_with_other_files_stay_class_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for index in range(2):
            picture(tmp_path / name / f"{index}.jpg")
            (tmp_path / name / f"{index}.json").write_text('{"camera": "x"}')
    (tmp_path / "info.json").write_text('{"images": 4}')
    assert not is_annotated(str(tmp_path))
    assert default_recipe(None, str(tmp_path)) == "pictures"
    assert open_parts(str(tmp_path)).sources["train"].class_names == ("cat", "dog")


NAMES: dict[str, tuple[str, str]] = {  # in the annotation file, and on the disk
    "backslashes": ("images\\sub\\a.jpg", "images/sub/a.jpg"),
    "another machine": ("/home/someone/project/images/a.jpg", "images/a.jpg"),
    "a drive": ("C:\\Users\\me\\a.jpg", "a.jpg"),
    "an upload": ("/data/upload/3/12ab34cd-a.jpg", "images/a.jpg"),
    "a local file": ("/data/local-files/?d=photos/a%20b.jpg", "photos/a b.jpg"),
    "a web address": ("https://example.org/bucket/a.jpg?size=2", "images/a.jpg"),
    "another case": ("a.JPG", "images/a.jpg"),
    "a capital": ("A.jpg", "images/a.jpg"),
    "decomposed": ("e\u0301.jpg", "images/\u00e9.jpg"),
    "composed": ("\u00e9.jpg", "images/e\u0301.jpg"),
    "in a folder below": ("a.jpg", "photos/2024/may/a.jpg"),
    "an upload's prefix": ("a.jpg", "images/12ab34cd-a.jpg"),
}


@pytest.mark.parametrize(("name", "path"), NAMES.values(), ids=NAMES)
def test_names_resolve_to_the_file_they_mean(name: str, path: str, tmp_path: Path) -> None:
    picture(tmp_path / path)
    picture(tmp_path / "images/other.jpg")
    write(tmp_path / "result.json", named(name, "other.jpg"))
    source = open_coco_evaluation(str(tmp_path / "result.json"), classes=["cat", "dog"]).validation
    assert source.name(0) == str(tmp_path / path)
    assert source.load(0).size == (WIDTH, HEIGHT)
    assert not source.findings.counts and len(source.findings.remarks) == 1


def test_a_name_that_fits_several_files_or_records_is_reported(tmp_path: Path) -> None:
    for path in ("x/a.jpg", "y/a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / path)
    write(tmp_path / "all.json", named("a.jpg", "/one/b.jpg", "/two/b.jpg", "c.jpg"))
    source = open_coco_evaluation(str(tmp_path / "all.json"), classes=["cat", "dog"]).validation
    kind = "image files that do not exist, or whose name fits several"
    assert source.findings.counts == {kind: 3}
    assert source.findings.examples[kind] == ["a.jpg", "/one/b.jpg", "/two/b.jpg"]


def test_a_file_that_several_records_name_is_remarked_on(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    source = open_coco_evaluation(str(write(tmp_path / "all.json", named("a.jpg", "a.jpg"))), classes=["cat", "dog"])
    assert source.findings.remarks == [f"1 files are named by several image records, such as {tmp_path / 'a.jpg'}"]


def test_an_image_of_the_other_part_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path / "annotations/instances_train.json", named("a.jpg", "b.jpg"))
    write(tmp_path / "annotations/instances_val.json", named("b.jpg"))
    picture(tmp_path / "train/a.jpg")
    picture(tmp_path / "val/b.jpg")
    data = open_coco(str(tmp_path))
    assert data.train is not None and data.train.name(1) == str(tmp_path / "train/b.jpg")
    assert sum(data.findings.counts.values()) == 1


def test_evaluation_takes_all_images_of_a_file_and_only_the_validation_part_of_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "annotations/instances_default.json", named(*(f"{i}.jpg" for i in range(5))))
    for i in range(5):
        picture(tmp_path / f"images/default/{i}.jpg")
    classes = ["dog", "cat", "cow"]
    everything = open_coco_evaluation(str(path), classes=classes)
    assert len(everything.validation) == 5 and everything.validation.class_names == tuple(classes)
    part = open_coco_evaluation(str(tmp_path), classes=classes)
    assert len(part.validation) == 1
    assert any("only the held-out fifth is evaluated, 1 images" in remark for remark in part.findings.remarks)
    (tmp_path / "annotations/instances_train.json").write_text("broken")
    write(tmp_path / "annotations/instances_val.json", named("0.jpg"))
    assert len(open_coco_evaluation(str(tmp_path), classes=classes).validation) == 1


def test_files_of_one_part_are_joined_by_class_names(tmp_path: Path) -> None:
    one, two = named("a.jpg", "b.jpg"), named("c.jpg")
    two["categories"] = [{"id": 3, "name": "cow"}, {"id": 9, "name": "cat"}]
    two["annotations"] = [annotation(1, 10, category_id=3), annotation(2, 10, category_id=9)]
    write(tmp_path / "annotations/one.json", one, tmp_path / "images")
    write(tmp_path / "annotations/two.json", two, tmp_path / "images")
    everything = open_coco(str(tmp_path)).everything
    assert everything is not None and set(everything.class_names) == {"cat", "dog", "cow"}
    truth = everything.ground_truth()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert len(names) == 3
    assert [names[entry["category_id"]] for entry in truth["annotations"]] == ["cat", "cat", "cow", "cat"]
    assert len({image["id"] for image in truth["images"]}) == 3
    assert len({entry["id"] for entry in truth["annotations"]}) == 4
