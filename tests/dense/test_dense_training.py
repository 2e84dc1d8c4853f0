"""Detectors and segmenters as a user trains and evaluates them and predicts with them, by the commands."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import transxnet
from helpers.commands import error_line, run
from helpers.networks import released_dense
from helpers.processes import Training, until_saved
from transxnet import CheckpointError
from transxnet.data.known_classes import coco_classes
from transxnet.data.scenes import write_scenes

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")
SMALL: dict[str, tuple[object, ...]] = {
    "retinanet": ("--short", 96, "--long", 96, "--pyramid-channels", 16),
    "mask_rcnn": ("--short", 96, "--long", 96, "--pyramid-channels", 16, "--regions", 16),
    "semantic_fpn": (
        "--augmentation.crop",
        64,
        "--augmentation.short",
        64,
        "--pyramid-channels",
        16,
    ),
}  # fmt: skip

LEARNED: dict[str, tuple[object, ...]] = {
    "retinanet": ("--short", 96, "--long", 96, "--pyramid-channels", 32),
    "mask_rcnn": ("--short", 96, "--long", 96, "--pyramid-channels", 32, "--regions", 32, "--proposals", 100),
    "semantic_fpn": ("--augmentation.crop", 96, "--augmentation.short", 96, "--pyramid-channels", 32),
}


def settings(kind: str, scenes: Path, *more: object) -> tuple[object, ...]:
    return (
        "--recipe",
        f"scenes/{kind}",
        "--data",
        scenes,
        "--batch-size",
        4,
        "--epochs",
        2,
        "--epoch-steps",
        2,
        "--backbone-settings",
        '{"depths": [1, 1, 1, 1]}',
        *SMALL[kind],
        *more,
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=12, validation=6, size=(80, 96))


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        assert run("train", *settings(kind, scenes), "--out", folder / kind) == 0
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_weights_figures_and_pictures(kind: str, runs: dict[str, Path]) -> None:
    folder = runs[kind]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["training_images"], summary["validation_images"]) == (12, 6)
    assert summary["steps"] == 4 and not summary["bad_images"]
    score = summary["mIoU"] if kind == "semantic_fpn" else summary["box"]["AP"]
    assert 0 <= score <= 1
    for name in ("samples.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    with (folder / "metrics.csv").open() as file:
        assert len([row for row in csv.DictReader(file) if row["train/loss"]]) == 2
    assert (folder / "checkpoints/best.ckpt").is_file() and list(folder.glob("tensorboard/events*"))


@pytest.mark.parametrize(
    ("kind", "checkpoint"),
    list(zip(KINDS, ("", "weights.safetensors", "checkpoints/last.ckpt"), strict=True)),
)
def test_what_a_run_leaves_can_be_evaluated(
    kind: str, checkpoint: str, runs: dict[str, Path], scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("eval", "--data", scenes, "--checkpoint", runs[kind] / checkpoint, "--json", "--per-class") == 0
    scores = json.loads(capsys.readouterr().out)
    summary = json.loads((runs[kind] / "summary.json").read_text())
    if kind == "semantic_fpn":
        assert scores["mIoU"] == pytest.approx(summary["mIoU"], abs=1e-6)
        assert list(scores["per_class"])[:2] == ["background", "zero"]
    else:
        assert scores["box"]["AP"] == pytest.approx(summary["box"]["AP"], abs=1e-6)
        assert ("mask" in scores) == (kind == "mask_rcnn")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_written_and_read_with_all_it_says_of_itself(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    load = transxnet.load_segmenter if kind == "semantic_fpn" else transxnet.load_detector
    model = load(runs[kind])
    again = load(transxnet.save_model(model, tmp_path / "model.safetensors"))
    assert again.head_description == model.head_description
    assert again.head_description.label_names[-1] == "nine" and not again.training
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    wrong = transxnet.load_detector if kind == "semantic_fpn" else transxnet.load_segmenter
    with pytest.raises(CheckpointError, match="loads it"):
        wrong(runs[kind])
    with pytest.raises(CheckpointError, match="a detector or a segmenter; load_detector"):
        transxnet.load_model(runs[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_runs_go_on_to_the_same_bits(kind: str, runs: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    often = ("--checkpoint-minutes", 0.0001)
    process = Training(*settings(kind, scenes), *often, "--out", folder)
    until_saved(folder, process)
    process.kill()
    process.communicate()
    assert not (folder / "summary.json").exists()
    done = Training("--resume", folder, "--workers", 1)
    printed = done.communicate()
    assert done.returncode == 0 and "resuming from" in printed, printed
    ours, theirs = (load_file(one / "weights.safetensors") for one in (folder, runs[kind]))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert (folder / "metrics.csv").read_bytes() == (runs[kind] / "metrics.csv").read_bytes()


def test_predictions_of_detectors(runs: dict[str, Path], scenes: Path, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    photos = tmp_path / "photos"
    shutil.copytree(scenes / "images/validation", photos / "a")
    Image.new("L", (70, 50), 90).save(photos / "scene_000001.png")  # the same name, other size and mode
    (photos / "broken.jpg").write_bytes(b"no picture")
    capsys.readouterr()
    out = tmp_path / "out"
    arguments = ("--checkpoint", runs["mask_rcnn"], "--min-score", 0.05, "--out", out, "--json")
    assert run("predict", photos, *arguments) == 1
    printed = capsys.readouterr()
    assert "cannot read" in printed.err and "broken.jpg" in printed.err
    rows = json.loads(printed.out)
    assert len(rows) == 8 and sum("error" in row for row in rows) == 1
    results = json.loads((out / "detections.json").read_text())
    assert len(results) == sum(len(row.get("results", ())) for row in rows)
    assert {result["category_id"] for result in results} <= {1, 2, 3, 5, 6, 7, 9, 10, 11, 13}
    assert all(set(result) >= {"image_id", "bbox", "score", "segmentation", "file_name"} for result in results)
    assert len(list(out.rglob("*.png"))) == 7  # those of one name in folders of their own


def test_predictions_of_segmenters(runs: dict[str, Path], scenes: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    photo = next((scenes / "images/validation").iterdir())
    assert run("predict", photo, "--checkpoint", runs["semantic_fpn"], "--out", tmp_path / "out") == 0
    assert "%" in capsys.readouterr().out
    with Image.open(tmp_path / f"out/labels/{photo.stem}.png") as labels, Image.open(photo) as image:
        assert labels.size == image.size
        values = np.asarray(labels)
    assert values.min() >= 1 and values.max() <= 11  # as the data set's own files, where 0 means "none"
    with Image.open(tmp_path / f"out/{photo.stem}.png") as picture:
        assert max(picture.size) >= 400


def test_a_released_detector_answers_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"meta": {"epoch": 12}, "state_dict": released_dense("retinanet")}, tmp_path / "retinanet_tiny.pth")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 300, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    checkpoint = tmp_path / "retinanet_tiny.pth"
    assert run("predict", tmp_path / "a.png", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    names = {one["class"] for one in row["objects"]}
    assert names <= set(coco_classes().values())
    ids = {result["category_id"] for result in row["results"]}
    assert ids and max(ids) <= 90
    assert run("predict", tmp_path / "a.png", "--checkpoint", checkpoint, "--model", "transxnet_tiny") == 2
    assert "leave --model out" in capsys.readouterr().err


def test_a_detector_is_tuned_to_other_classes(runs: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_training.json").read_text())
    for category in content["categories"]:
        category["name"] = f"digit {category['name']}"
    shutil.copytree(scenes, tmp_path / "other")
    for part in ("training", "validation"):
        path = tmp_path / f"other/annotations/instances_{part}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": content["categories"]}))
    tuned = settings("retinanet", tmp_path / "other", "--epochs", 1, "--checkpoint", runs["retinanet"])
    assert run("train", *tuned, "--out", tmp_path / "run") == 0
    model = transxnet.load_detector(tmp_path / "run")
    assert model.head_description.label_names[0] == "digit zero"


@pytest.mark.parametrize("kind", [pytest.param("mask_rcnn", marks=pytest.mark.slow), "semantic_fpn"])
def test_broken_images_are_replaced_counted_and_too_many_stop(
    kind: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes, tmp_path / "data")
    (tmp_path / "data/images/training/scene_000003.jpg").write_bytes(b"no picture")
    (tmp_path / "data/annotations/training/scene_000003.png").write_bytes(b"no picture")
    once = settings(kind, tmp_path / "data", "--epochs", 1, "--precision", "bf16-mixed")
    once += ("--grad-checkpointing", "true")
    assert run("train", *once, "--max-bad", 0.1, "--out", tmp_path / kind) == 0
    bad = json.loads((tmp_path / kind / "summary.json").read_text())["bad_images"]
    assert len(bad) == 1 and "scene_000003" in next(iter(bad))
    assert run("train", *once, "--out", tmp_path / f"{kind}-2") == 2
    assert "scene_000003" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "scenes"), "--recipe scenes/retinanet"),
        (("--data", "SCENES"), "has annotations"),
        (("--recipe", "coco/retinanet_tiny", "--task", "segmentation"), "is a recipe for detection"),
        (("--recipe", "scenes/retinanet", "--data", "nowhere"), "nowhere"),
        (("--recipe", "scenes/retinanet", "--backbone", "resnet50"), "there is no network 'resnet50'"),
        (("--task", "detection", "--data", "SCENES"), "name a recipe"),
        (("--task", "tracking"), "there is no task 'tracking'"),
        (("--recipe", "scenes/semantic_fpn", "--detector", "x"), "detector"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(scenes) if argument == "SCENES" else argument for argument in arguments]
    assert message in error_line(["train", *given], tmp_path, capsys)


def test_help_lists_each_task_s_options(capsys: pytest.CaptureFixture[str]) -> None:
    for task, option in (
        ("detection", "--regions"),
        ("segmentation", "--reduce-zero-label"),
        ("classification", "--mixup"),
    ):
        assert run("train", "--task", task, "--help") == 0
        assert option in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "steps", "score"),
    [
        ("semantic_fpn", 170, 0.5),
        ("retinanet", 170, 0.5),
        ("mask_rcnn", 170, 0.15),  # the second stage improves once the first has
    ],
)
def test_a_few_scenes_can_be_overfitted(kind: str, steps: int, score: float, tmp_path: Path) -> None:
    """From generation to precision and picture, in a minute: the validation images are the training images."""
    data = write_scenes(tmp_path / "scenes", train=6, validation=1, size=(96, 96))
    shutil.copy(data / "annotations/instances_training.json", data / "annotations/instances_validation.json")
    for part in ("images", "annotations"):
        shutil.rmtree(data / part / "validation")
        shutil.copytree(data / part / "training", data / part / "validation")
    recipe = ("--recipe", f"scenes/{kind}", "--data", data, *LEARNED[kind], "--batch-size", 4, "--seed", 1)
    budget = ("--epochs", 1, "--epoch-steps", steps, "--warmup-steps", 20)
    assert run("train", *recipe, *budget, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    name = {"retinanet": "box", "mask_rcnn": "mask"}.get(kind)
    assert (summary[name]["AP50"] if name else summary["mIoU"]) >= score
    with Image.open(tmp_path / "run/samples.png") as picture:
        assert min(picture.size) > 300
