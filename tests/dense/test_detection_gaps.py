"""Detectors where there is little to learn from: no objects to evaluate on, objects without masks."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.coco_files import HEIGHT, TRIANGLE, WIDTH, annotation, content, only_first, write
from helpers.commands import run
from transxnet import ConfigError, DataError, evaluate
from transxnet.bounds import checked_settings
from transxnet.data.coco.opening import CocoSource
from transxnet.dense.create import create_detector
from transxnet.detection.batches import DetectionBatch, EvaluationImages, TrainingImages, collate
from transxnet.detection.evaluate import SCORES, coco_results, precision
from transxnet.detection.experiment import DetectionExperiment
from transxnet.detection.recipe import DetectionRecipe
from transxnet.detection.results import as_results

SMALL = ("--recipe", "scenes/mask_rcnn", "--short", 64, "--long", 64, "--pyramid-channels", 8, "--regions", 16,
         "--proposals", 20, "--batch-size", 1, "--epochs", 1, "--epoch-steps", 1)  # fmt: skip


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as CVAT exports them of which one is annotated: with a mask, and with a box alone."""
    root = tmp_path_factory.mktemp("data")
    described = content(4)
    described["annotations"] = [annotation(1, 10), annotation(2, 10, segmentation=[], bbox=[2, 2, 9, 9])]
    write(root / "annotations/instances_default.json", described, root / "images/default")
    return root


@pytest.fixture(scope="module")
def trained(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run("train", *SMALL, "--data", annotated, "--without-mask", "boxes-only", "--out", out) == 0
    (out / "printed.txt").write_text(printed.getvalue())
    return out


def test_a_metric_without_objects_is_a_gap_and_chooses_no_checkpoint(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["box"] == dict.fromkeys(SCORES) and "box AP – (AP50 –)" in summary["headline"]
    with (trained / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["val/AP"] == row["val/box_AP50"] == "" and float(row["train/loss"]) > 0
    assert (trained / "checkpoints/last.ckpt").exists() and not (trained / "checkpoints/best.ckpt").exists()
    assert (trained / "curves.png").exists()
    printed = (trained / "printed.txt").read_text()
    assert "no validation image has an object" in printed and "objects without a mask" in printed
    assert "AP –  " in printed and "box AP – (AP50 –)" in printed and "-100" not in printed


def test_evaluation_without_objects(trained: Path, annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("eval", "--data", annotated, "--checkpoint", trained, "--per-class") == 0
    printed = capsys.readouterr()
    assert "–" in printed.out and "-100" not in printed.out
    assert "only the held-out fifth is evaluated" in printed.err
    path = annotated / "annotations/instances_default.json"
    scores = evaluate(trained, path)
    assert scores.images == 4
    values = json.loads(json.dumps(scores.to_dict()))
    assert values["box"]["AP"] is not None and values["box"]["APl"] is None
    assert values["mask"] == dict.fromkeys(SCORES) | {"per_class": {}}  # the only annotated image lacks a mask


def test_training_names_objects_without_masks(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *SMALL, "--data", annotated) == 2
    line = capsys.readouterr().err
    assert "1 of 2, such as annotation 2 of 0.jpg; take --detector retinanet, or --without-mask boxes-only" in line


def test_an_experiment_takes_crowds_as_objects(tmp_path: Path) -> None:
    described = content(5)
    for entry in described["annotations"]:
        entry["iscrowd"] = 1
    write(tmp_path / "annotations/instances_default.json", described, tmp_path / "images/default")
    recipe: dict[str, Any] = {"data": str(tmp_path), "backbone": "transxnet_nano"}
    with pytest.raises(DataError, match="no usable training image"):
        DetectionExperiment(DetectionRecipe(**recipe))
    for spelling in ("as-objects", "as_objects"):
        chosen = DetectionRecipe(**checked_settings(DetectionRecipe, recipe | {"crowds": spelling}))
        assert chosen.crowds == "as-objects"
        assert DetectionExperiment(chosen).training_images == 4
    with pytest.raises(ConfigError, match="crowds"):
        DetectionRecipe(**recipe, crowds="objects")  # type: ignore[arg-type]


def test_masks_are_evaluated_on_images_all_of_whose_objects_have_one(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(only_first(segmentation=[]))
    results = [
        row
        for index, image in enumerate(source.images)
        for row in as_results(
            {
                "boxes": source.instances(index).boxes,
                "labels": source.instances(index).labels,
                "scores": torch.ones(1),
                "masks": source.instances(1).masks(),
            },
            image.id,
            source.category_ids,
        )
    ]
    assert precision(source, range(3), results, "segm").scores["AP"] == 1
    assert precision(source, [0], results, "segm").scores == dict.fromkeys(SCORES)
    assert precision(source, [], [], "bbox").per_class == [None, None]


def test_objects_without_masks_do_not_train_masks(opened_coco: Callable[..., CocoSource]) -> None:
    source = opened_coco(
        lambda described: described["annotations"].append(annotation(9, 10, bbox=[30, 20, 15, 15], segmentation=[]))
    )
    network = create_detector("mask_rcnn", backbone="transxnet_nano", num_classes=2, pyramid_channels=8).train()
    network.transform.short = network.transform.long = 64
    images = TrainingImages(source, network.transform, DetectionRecipe().augmentation, masks=True, seed=0)
    image, target = images.read(0)
    image = network.transform.resized(image)  # as its masks
    assert target["has_mask"].tolist() == [True, False]

    def mask_loss(filled: bool, **changes: torch.Tensor) -> float:
        torch.manual_seed(0)
        masks = target["masks"].clone()
        masks[1] = filled
        return float(network([image], [target | {"masks": masks} | changes])["loss_mask"].detach())

    assert mask_loss(True) == pytest.approx(mask_loss(False), rel=1e-5)
    assert mask_loss(True) != pytest.approx(mask_loss(True, has_mask=torch.tensor([True, True])), rel=1e-3)
    assert "has_mask" not in images.read(1)[1]


def test_a_network_sees_upright_images_and_results_are_in_the_annotated_frame(
    opened_coco: Callable[..., CocoSource], tmp_path: Path
) -> None:
    source = opened_coco(only_first(segmentation=TRIANGLE))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/0.jpg", exif=exif)
    images = EvaluationImages(source)
    batch: DetectionBatch = collate([images[0, 0]])
    assert batch.images[0].shape == (3, WIDTH, HEIGHT)  # as a viewer, and predict, show it
    _, instances = source.upright(0)
    found = {"boxes": instances.boxes, "labels": instances.labels, "scores": torch.ones(1), "masks": instances.masks()}
    (result,) = coco_results([found], batch, source)
    assert result["bbox"] == [10, 5, 21, 26]
    assert result["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert precision(source, [0], [result], "segm").scores["AP"] == 1
