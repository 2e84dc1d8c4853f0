"""The commands as a user types them, and what they say to a mistake."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import transxnet
from helpers.commands import TWO_BLOCKS, error_line, paint, run
from helpers.image_files import bad_images
from transxnet.cli import models
from transxnet.cli.main import COMMANDS
from transxnet.cli.train import parse_recipe
from transxnet.data.sources import imagenet_synsets


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a small network on flowers, its data beside it."""
    root = tmp_path_factory.mktemp("flowers")
    paint(root / "photos", 20)
    settings = ("--recipe", "digits", "--epochs", 4, "--batch-size", 4, "--ema-decay", 0.8)
    assert run("train", *settings, *TWO_BLOCKS, "--data", root / "photos", "--out", root / "run") == 0
    return root


def test_training_on_a_folder_reaches_full_accuracy_and_leaves_a_run_folder(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["top1"] == 1.0
    assert (summary["training_images"], summary["validation_images"]) == (32, 8)
    for name in ("metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "weights.safetensors"):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("tensorboard/events*"))
    for name in ("samples.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["epochs"], config["image_size"]) == (4, 32)
    with (folder / "metrics.csv").open() as file:
        assert len([row for row in csv.DictReader(file) if row["val/top1"]]) == 4


@pytest.mark.parametrize("checkpoint", ["run", "run/weights.safetensors", "run/checkpoints/last.ckpt"])
def test_what_a_run_leaves_can_be_evaluated(trained: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = trained / "photos"
    assert run("eval", "--data", data, "--checkpoint", trained / checkpoint, "--json", "--per-class") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 40 and result["top1"] > 0.9
    assert result["per_class"]["leaf"]["images"] == 20


def test_evaluation_as_a_person_reads_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "--data", trained / "photos", "--checkpoint", trained / "run", "--per-class") == 0
    printed = capsys.readouterr().out
    assert "top-1" in printed and "images/s" in printed and "rose" in printed
    assert "top-5" not in printed  # of two classes


def test_a_recorded_configuration_reproduces_the_weights(trained: Path, tmp_path: Path) -> None:
    short = ("--recipe", trained / "run/config.yaml", "--epochs", 1)
    assert run("train", *short, "--out", tmp_path / "a") == 0
    torch.rand(3)
    assert run("train", "--recipe", tmp_path / "a/config.yaml", "--out", tmp_path / "b") == 0
    first, second = (transxnet.load_model(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fine_tuning_starts_from_the_weights_with_a_new_classifier(trained: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (40, 40), (index * 80, ord(name), 0)).save(tmp_path / "photos" / name / f"{index}.png")
    start = ("--data", tmp_path / "photos", "--checkpoint", trained / "run", "--epochs", 1, "--lr", 1e-9)
    assert run("train", *start, "--ema-decay", 0, "--out", tmp_path / "run") == 0
    old, new = (transxnet.load_model(path).state_dict() for path in (trained / "run", tmp_path / "run"))
    assert new["head.fc.weight"].shape[0] == 3
    assert torch.allclose(old["stages.1.blocks.0.dpe.weight"], new["stages.1.blocks.0.dpe.weight"], atol=1e-6)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_prediction_goes_on_past_unreadable_images_and_exits_with_1(
    trained: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = bad_images(tmp_path)
    images = (trained / "photos/leaf/1.png", str(trained / "photos/rose/*.png"), tmp_path)
    out = tmp_path / f"answers{suffix}"
    assert run("predict", *images, "--checkpoint", trained / "run", "--out", out, "--top", 1) == 1
    printed = capsys.readouterr()
    assert "leaf/1.png" in printed.out and "rose" in printed.out
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in printed.err.splitlines())
    if suffix == ".json":
        rows = json.loads(out.read_text())
        answers = {row["image"]: row["answers"][0]["class"] for row in rows if "answers" in row}
    else:
        with out.open() as file:
            rows = list(csv.DictReader(file))
        answers = {row["image"]: row["class"] for row in rows if not row["error"]}
    assert len(rows) == 21 + len(reasons)
    assert sum(Path(name).parent.name == answer for name, answer in answers.items()) >= 20


def test_a_fused_network_predicts_the_same(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("predict", trained / "photos", "--checkpoint", trained / "run", "--json", "--device", "cpu")
    answers = []
    for options in ((), ("--fuse",)):
        assert run(*command, *options) == 0
        answers.append([row["answers"] for row in json.loads(capsys.readouterr().out)])
    for plain, fused in zip(*answers, strict=True):
        assert [one["class"] for one in fused] == [one["class"] for one in plain]
        for one, other in zip(fused, plain, strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_training_goes_on_past_a_few_unreadable_images_and_names_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "photos", 4)
    (tmp_path / "photos/leaf/torn.png").write_bytes(b"not a picture")
    settings = ("--data", tmp_path / "photos", *TWO_BLOCKS, "--image-size", 32, "--epochs", 1, "--batch-size", 4)
    assert run("train", *settings, "--out", tmp_path / "a", "--max-bad", 0.2) == 0
    assert "torn.png" in capsys.readouterr().out
    assert run("train", *settings, "--out", tmp_path / "b") == 2
    assert "torn.png (not an image" in capsys.readouterr().err


def test_evaluation_bounds_unreadable_images_too(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path, 4)
    (tmp_path / "leaf/torn.png").write_bytes(b"not a picture")
    assert run("eval", "--data", tmp_path, "--checkpoint", trained / "run", "--max-bad", 0.2) == 0
    printed = capsys.readouterr().out
    assert "torn.png" in printed and "8 images" in printed
    assert run("eval", "--data", tmp_path, "--checkpoint", trained / "run") == 2


def test_imagenet_classes_are_named_in_words(
    released_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (300, 260), (90, 120, 30)).save(tmp_path / "a.jpg")
    assert run("predict", tmp_path / "a.jpg", "--checkpoint", released_file, "--json") == 0
    answers = json.loads(capsys.readouterr().out)[0]["answers"]
    assert len(answers) == 3
    assert all(answer["class"] not in imagenet_synsets() for answer in answers)


def test_conversion_keeps_every_weight(released_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny.safetensors"
    assert run("convert", released_file, out) == 0
    assert "transxnet_tiny, 1,000 classes, 12,834,808 parameters" in capsys.readouterr().out
    old, new = (transxnet.load_model(path).state_dict() for path in (released_file, out))
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert run("convert", released_file, out) == 2
    assert "--force" in capsys.readouterr().err


def test_models_lists_every_network_with_its_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_row", functools.cache(models._row))
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["transxnet_tiny"]["parameters"] == 12_834_808
    assert rows["transxnet_base"]["released"][1]["top1"] == 85.5
    assert run("models") == 0
    table = capsys.readouterr().out
    assert "48.01" in table and "8.264" in table and max(map(len, table.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_fits_a_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"transxnet {command}" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("command", "recipe"),
    [
        (("train",), "digits"),
        (("train", "--recipe", "imagenet/tiny"), "imagenet/tiny"),
        (("train", "--recipe", "scenes/retinanet"), "scenes/retinanet"),
        (("train", "--recipe", "scenes/semantic_fpn", "--task", "segmentation"), "scenes/semantic_fpn"),
        (("compare",), "digits"),
    ],
)
def test_help_names_the_recipes_settings_as_defaults(
    command: tuple[str, ...], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, value in dataclasses.asdict(parse_recipe(["--recipe", recipe])).items():
        for inner, one in value.items() if name == "augmentation" else [("", value)]:
            option = "--" + ".".join(filter(None, (name, inner))).replace("_", "-")
            described = text.partition(f" {option} ")[2].partition(" --")[0]
            default = described.rpartition("(default: ")[2].partition(")")[0]
            assert default == (json.dumps(one) if one == "" or not isinstance(one, str) else one), option
    assert run("train", "--task", "detection", "--help") == 0  # which has no recipe by default
    assert "AUGMENTATION." not in text and "--print" not in text and "ITEM" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trane"], "transxnet trane: there is no such command; there are train,"),
        (["train", "--data", "nowhere"], "nowhere does not exist"),
        (["train", "--recipe", "nope"], "no recipe 'nope'"),
        (["train", "--epochs", "three"], "--epochs must be a whole number from 1 to 100,000, not 'three'"),
        (["train", "--epochs", "0"], "--epochs must be a whole number from 1 to 100,000, not 0"),
        (["train", "--lr", "-1"], "--lr must be a number above 0 and up to 1,000, not -1"),
        (["train", "--augmentation.hflip", "2"], "--augmentation.hflip must be a number from 0 to 1, not 2"),
        (["train", "--augmentation.auto-augment", "foo"], "'foo'"),
        (["train", "--frobnicate", "2"], "--frobnicate"),
        (["train", "--model", "transxnet_tini"], "did you mean transxnet_tiny"),
        (["predict"], "IMAGE"),
        (["predict", "x.jpg"], "give --checkpoint"),
        (["predict", "x.jpg", "--checkpoint", "nope.pth"], "nope.pth does not exist"),
        (["predict", "x.jpg", "--checkpoint", "nope.pth", "--out", "a.txt"], ".json or .csv"),
        (["predict", "*.nothing", "--checkpoint", "nope.pth"], "nothing matches"),
        (["eval", "--data", "digits"], "give --checkpoint"),
        (["eval", "--data", "digits", "--model", "resnet50"], "there is no network 'resnet50'"),
        (["convert", "a.pth", "b.pth"], "must end in .safetensors"),
        (["data", "weed"], "no command 'weed'; there are shard, check"),
        (["data", "check", "nowhere"], "nowhere does not exist"),
        (["data", "check", "nowhere", "--workers", "-1"], "--workers must be a whole number from 0 to 256, not -1"),
        (["data", "shard", "nowhere"], "out"),
        (["data", "shard", "nowhere", "out"], "nowhere does not exist"),
        (
            ["data", "shard", "nowhere", "out", "--shard-mb", "0"],
            "--shard-mb must be a number above 0 and up to 1,000,000, not 0",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(arguments, tmp_path, capsys)


def test_a_run_is_never_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--out", trained / "run") == 2
    assert "holds a run already" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"transxnet {transxnet.__version__}"
