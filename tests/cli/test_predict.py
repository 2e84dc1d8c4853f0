"""``transxnet predict``: ids of results, names of pictures, and images and networks of every kind."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import transxnet
from helpers.commands import run
from helpers.image_files import picture
from helpers.networks import lively_dense, nano

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small networks of every task and of other numbers of channels."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in KINDS:
        transxnet.save_model(lively_dense(kind), folder / f"{kind}.safetensors")
    for name, settings in {"classifier": {}, "grey": {"in_chans": 1}, "four": {"in_chans": 4}}.items():
        transxnet.save_model(nano(num_classes=2, img_size=32, **settings), folder / f"{name}.safetensors")
    transxnet.save_model(nano(num_classes=0), folder / "features.safetensors")
    return folder


def fill(folder: Path, *names: str) -> list[Path]:
    """Pictures of these names, all different."""
    paths = [folder / name for name in names]
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(40 + index, 30).save(path)
    return paths


def annotate(path: Path, names: dict[str, Any], categories: dict[str, int]) -> Path:
    content = {
        "images": [{"id": one, "file_name": name} for name, one in names.items()],
        "annotations": [],
        "categories": [{"id": one, "name": name} for name, one in categories.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def results(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "detections.json").read_text())
    return rows


@pytest.mark.parametrize("given", ["a.json", "."])
def test_results_have_the_ids_of_an_annotation_file(
    given: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "images", "train/x.png", "val/x.png", "val/Y.PNG", "val/other.png")
    names = {"train/x.png": 42, "C:\\data\\val\\x.png": 7, "y.png": "nine"}
    annotate(tmp_path / "a.json", names, {"c": 30, "a": 10, "b": 20})
    out = tmp_path / "out"
    arguments = ("--checkpoint", weights / "retinanet.safetensors", "--out", out, "--min-score", 0.6)
    assert run("predict", tmp_path / "images", *arguments, "--data", tmp_path / given, "--json") == 0
    printed = capsys.readouterr()
    assert "does not list 1 of 4 images" in printed.err and "other.png" in printed.err
    found = {(row["image_id"], Path(row["file_name"]).name, row["category_id"]) for row in results(out)}
    assert {(one, name) for one, name, _ in found} == {(42, "x.png"), (7, "x.png"), ("nine", "Y.PNG")}
    assert {category for *_, category in found} == {10, 20, 30}
    rows = json.loads(printed.out)
    assert [row["image_id"] for each in rows for row in each["results"]] == [row["image_id"] for row in results(out)]


def test_results_have_the_images_names_without_an_annotation_file(weights: Path, tmp_path: Path) -> None:
    paths = fill(tmp_path / "images", "a/x.png", "b/x.png")
    out = tmp_path / "out"
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "retinanet.safetensors", "--out", out)
    assert run(*command) == 0
    assert {row["image_id"] for row in results(out)} == set(map(str, paths))


@pytest.mark.parametrize("stored", [True, False])
def test_objects_are_found_in_the_orientation_of_the_annotations(stored: bool, weights: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    picture(60, 30).save(tmp_path / "x.jpg", exif=exif)
    file = annotate(tmp_path / "a.json", {"x.jpg": 1}, {})
    content = json.loads(file.read_text())
    content["images"][0] |= dict(zip(("width", "height"), (60, 30) if stored else (30, 60), strict=True))
    file.write_text(json.dumps(content))
    command = ("predict", tmp_path / "x.jpg", "--checkpoint", weights / "mask_rcnn.safetensors", "--data", file)
    assert run(*command, "--out", tmp_path / "out") == 0
    sizes = {tuple(row["segmentation"]["size"]) for row in results(tmp_path / "out")}
    assert sizes == {(30, 60) if stored else (60, 30)}


@pytest.mark.parametrize("minimum", [0.2, 0.7])
def test_the_minimum_score_holds_in_every_output(
    minimum: float, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "images", "x.png")
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "mask_rcnn.safetensors")
    assert run(*command, "--min-score", minimum, "--out", tmp_path / "out", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    scores = [[one["score"] for one in rows] for rows in (results(tmp_path / "out"), row["results"], row["objects"])]
    assert scores[0] == scores[1] == scores[2] and scores[0] and min(scores[0]) >= minimum


@pytest.mark.parametrize(
    ("names", "message"),
    [({"z.png": 1}, "lists none of the images"), ({"x.png": 1}, "lists one image for"), (None, "COCO's format")],
)
def test_ids_that_do_not_fit_are_refused(
    names: dict[str, Any] | None, message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "images", "a/x.png", "b/x.png")
    file = tmp_path / "a.json"
    file.write_text("[]") if names is None else annotate(file, names, {})
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "retinanet.safetensors", "--annotations", file)
    assert run(*command) == 2
    assert message in capsys.readouterr().err


def test_there_is_a_picture_for_every_image(weights: Path, tmp_path: Path) -> None:
    names = (
        "a/x.png",
        "b/x.png",
        "b/x-2.png",
        "b/x.jpg",
        "b/X.gif",
        "b/x.png.png",
        "labels/b/x.png",
        "labels/b/x-2.png",
    )
    fill(tmp_path / "images", *names)
    out = tmp_path / "out"
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "semantic_fpn.safetensors", "--out", out)
    assert run(*command) == 0
    assert len(list(out.rglob("*.png"))) == 2 * len(names)
    assert (out / "a/x.png").is_file() and (out / "b/x.jpg.png").is_file() and (out / "labels/a/x.png").is_file()


@pytest.mark.parametrize("kind", [*KINDS, "classifier"])
def test_extreme_aspect_ratios_among_other_images(
    kind: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [(700, 2), (2, 700), (1, 1), (2, 20_000), (48, 40)]
    for index, size in enumerate(sizes):
        Image.new("RGB", size, (90, 120, 30)).save(tmp_path / f"{index}.png")
    out = tmp_path / ("out" if kind != "classifier" else "out.csv")
    images = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    command = ("predict", *images, "--checkpoint", weights / f"{kind}.safetensors", "--out", out, "--min-score", 0.1)
    assert run(*command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(sizes) and not any("error" in row for row in rows)
    assert kind == "classifier" or len(list(out.glob("*.png"))) == len(sizes)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_names_that_are_not_utf_8_are_written_with_escapes(weights: Path, tmp_path: Path, suffix: str) -> None:
    (path,) = fill(tmp_path / "images", "x.png")
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png"))
    out = tmp_path / f"out{suffix}"
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "classifier.safetensors", "--out", out)
    assert run(*command) == 0
    text = out.read_bytes().decode("utf-8")
    rows = json.loads(text) if suffix == ".json" else list(csv.DictReader(text.splitlines()))
    assert {row["image"] for row in rows} == {str(path.parent / "caf\\udce9.png")}


def test_pictures_of_names_that_are_not_utf_8(weights: Path, tmp_path: Path) -> None:
    (path,) = fill(tmp_path / "images", "x.png")
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png"))
    command = ("predict", tmp_path / "images", "--checkpoint", weights / "retinanet.safetensors")
    assert run(*command, "--out", tmp_path / "out") == 0
    assert [os.fsencode(one.name) for one in (tmp_path / "out").glob("*.png")] == [b"caf\xe9.png"]
    assert {row["image_id"] for row in results(tmp_path / "out")} == {str(path.parent / "caf\\udce9.png")}


def test_a_piped_table_cuts_no_path(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = fill(tmp_path / ("long" * 50), "x" * 200 + ".png")
    assert run("predict", path, "--checkpoint", weights / "classifier.safetensors") == 0
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_a_network_without_a_classifier_is_named(
    command: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, "a/x.png", "b/y.png")
    data = ("--data", tmp_path) if command == "eval" else (tmp_path,)
    assert run(command, *data, "--checkpoint", weights / "features.safetensors") == 2
    assert "without a classifier" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("four", 4)])
def test_networks_of_other_channels(
    name: str, channels: int, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        tifffile.imwrite(tmp_path / f"images/{label}/x.tif", values, photometric="minisblack", planarconfig="contig")
    fill(tmp_path / "images", "a/rgb.png")
    checkpoint = weights / f"{name}.safetensors"
    status = 0 if channels == 1 else 1  # an image of three bands is named, the others are classified
    assert run("predict", tmp_path / "images", "--checkpoint", checkpoint, "--json") == status
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert sum("answers" in row for row in rows) == 3 - status
    assert ("rgb.png: it has 3 bands, but the network takes 4" in printed.err) == bool(status)
    (tmp_path / "images/a/rgb.png").unlink()
    predictor = transxnet.Predictor(checkpoint)
    grey = torch.from_numpy(values).permute(2, 0, 1) if channels == 4 else values[:, :, 0]
    given: Any = predictor([tmp_path / "images/a/x.tif", grey])
    answers: Any = [dict(zip(one.classes, one.probabilities, strict=True)) for one in given]
    assert channels == 1 or answers[0] == pytest.approx(answers[1])
    scores = transxnet.evaluate(checkpoint, _renamed(tmp_path / "images", predictor.class_names))
    assert scores.images == 2


def _renamed(folder: Path, names: tuple[str, ...]) -> Path:
    for old, new in zip("ab", names, strict=True):
        shutil.move(folder / old, folder / new)
    return folder


def test_training_on_images_of_four_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(3):
            values = generator.integers(0, 256, (40, 44, 4), np.uint8)
            tifffile.imwrite(tmp_path / f"images/{label}/{index}.tif", values, photometric="rgb")
    settings = ("--model", "transxnet_nano", "--model-settings", '{"in_chans": 4}', "--image-size", 32, "--epochs", 1)
    fast = ("--cooldown-epochs", 0, "--batch-size", 4, "--native-kernels", "false", "--ema-decay", 0)
    assert run("train", "--data", tmp_path / "images", *settings, *fast, "--out", tmp_path / "run") == 0
    assert transxnet.load_model(tmp_path / "run").in_chans == 4
    assert (tmp_path / "run/samples.png").is_file()


@pytest.mark.parametrize("create", [transxnet.create_detector, transxnet.create_segmenter])
def test_detectors_and_segmenters_of_other_channels_are_refused(create: Any) -> None:
    kind = "retinanet" if create is transxnet.create_detector else "semantic_fpn"
    with pytest.raises(transxnet.ConfigError, match="images of 3 channels"):
        create(kind, backbone="transxnet_nano", num_classes=2, pyramid_channels=16, in_chans=4)


def test_remarks_on_images_are_lines(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(tmp_path / f"{index}.png")
    assert run("predict", tmp_path, "--checkpoint", weights / "classifier.safetensors") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("images of 16 bits without a value above 4,095 are read as images of 12 bits")
