"""Two processes on a CPU (gloo) against one that accumulates the same batches; and the settings for GPUs."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file

from helpers.commands import TWO_BLOCKS, paint, run
from helpers.processes import Launched, Training, until_saved
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.data.sampling import AddressSampler
from transxnet.data.scenes import write_scenes
from transxnet.errors import ConfigError
from transxnet.training.trainer import hardware

SETTINGS = (*TWO_BLOCKS, "--image-size", "32", "--batch-size", "2", "--epochs", "1", "--warmup-epochs", "0",
            "--drop-path", "0.1", "--mixup", "0.3", "--seed", "1")  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    paint(folder / "train", 22)
    paint(folder / "val", 6)
    (folder / "val/leaf/0.png").unlink()  # 11 images, which two processes cannot share evenly
    for index in (1, 2, 3):  # and some that cannot be got right
        (folder / f"val/leaf/{index}.png").rename(folder / f"val/rose/leaf{index}.png")
    return folder


def train(launcher: Literal["forked", "torchrun", "lightning"], *arguments: object) -> Training | Launched:
    """Start ``transxnet train`` on two processes."""
    return Training(*arguments, processes=2) if launcher == "forked" else Launched(launcher, *arguments)


def options(photos: Path, folder: Path, *more: object) -> tuple[object, ...]:
    return ("--data", photos, *SETTINGS, "--accelerator", "cpu", "--out", folder, *more)


@pytest.fixture(scope="module")
def two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    process = Training(*options(photos, folder), processes=2)
    text = process.communicate()
    assert process.returncode == 0, text
    assert text.count("test accuracy") == 1  # one process talks
    return folder


def parameters(folder: Path) -> dict[str, Any]:
    weights = load_file(folder / "weights.safetensors")
    return {name: weight for name, weight in weights.items() if name.rsplit(".", 1)[-1] in ("weight", "bias")}


def scores(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row["val/top1"] for row in csv.DictReader(file)]


def test_two_processes_train_what_one_trains_that_accumulates(photos: Path, two: Path, tmp_path: Path) -> None:
    assert run("train", "--data", photos, *SETTINGS, "--accumulate", 2, "--out", tmp_path / "one") == 0
    one, both = parameters(tmp_path / "one"), parameters(two)
    for name, weight in one.items():
        assert (weight.double() - both[name]).abs().max() <= 1e-5, name


def test_validation_counts_every_image_once(two: Path) -> None:
    counted_by_two = [float(score) * 11 for score in scores(two)]
    assert all(count == pytest.approx(round(count), abs=1e-4) for count in counted_by_two)
    # The summary's figure is one process's, of the same weights.
    alone = json.loads((two / "summary.json").read_text())["top1"] * 11
    assert round(counted_by_two[-1]) == round(alone) < 11
    for world_size in (1, 2, 3, 8):
        samplers = [AddressSampler(11, 2, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert sorted(index for sampler in samplers for _, index in sampler) == list(range(11))
        assert sum(map(len, samplers)) == 11


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["forked", "torchrun", "lightning"])
def test_a_stopped_run_of_two_goes_on_to_the_same_bits(launcher: Any, photos: Path, two: Path, tmp_path: Path) -> None:
    """All processes take the run's own settings, from the command that the stopped run printed."""
    folder = tmp_path / "run"
    devices = ("--devices", 2) if launcher == "lightning" else ()
    process = train(launcher, *options(photos, folder, "--checkpoint-minutes", 0.001, *devices))
    until_saved(folder, process)
    process.send_signal(signal.SIGTERM)  # launchers pass it on
    text = process.communicate()
    assert "stopped by SIGTERM" in text and "warn" not in text.lower()
    process = train(launcher, "--resume", folder)
    text = process.communicate()
    assert process.returncode == 0, text
    assert "resuming from" in text
    expected, result = load_file(two / "weights.safetensors"), load_file(folder / "weights.safetensors")
    assert all(torch.equal(weight, result[name]) for name, weight in expected.items())
    assert (folder / "metrics.csv").read_bytes() == (two / "metrics.csv").read_bytes()


def test_bad_images_are_counted_together_and_stop_all(photos: Path, tmp_path: Path) -> None:
    """Each process has met fewer than are allowed; both together, too many."""
    paint(tmp_path / "photos", 22)
    for index in range(8):
        (tmp_path / f"photos/leaf/{index}.png").write_bytes(b"torn")
    process = Training(*options(tmp_path / "photos", tmp_path / "run", "--max-bad", 0.15), processes=2)
    text = process.communicate()
    assert process.returncode != 0
    assert "images cannot be used, more than --max-bad 0.15 allows" in text and "torn" not in text.split("allows")[0]


def test_processes_share_out_what_one_would_take() -> None:
    one = AddressSampler(50, 4, seed=3, train=True, batches_per_step=2)
    pair = [AddressSampler(50, 4, seed=3, train=True, rank=rank, world_size=2) for rank in range(2)]
    both = [index for step in zip(*(_batches(sampler, 4) for sampler in pair), strict=True) for index in step]
    assert both == _batches(one, 4)
    with pytest.raises(ConfigError, match="a step takes 64 images on 8 devices, but there are only 50"):
        AddressSampler(50, 8, train=True, world_size=8)


def _batches(sampler: AddressSampler, size: int) -> list[list[tuple[int, int]]]:
    addresses = list(sampler)
    return [addresses[first : first + size] for first in range(0, len(addresses), size)]


def test_several_devices_of_a_machine() -> None:
    settings = hardware(ClassificationRecipe(devices="2", precision="bf16-mixed"), gpu=False)
    assert isinstance(settings["strategy"], DDPStrategy)
    assert (settings["devices"], settings["precision"]) == (2, "bf16-mixed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--accelerator", "gpu"), "there is no GPU here"),
        (("--precision", "16-mixed"), "needs a GPU"),
        (("--strategy", "fsdp", "--ema-decay", "0"), "needs GPUs"),
        (("--strategy", "fsdp"), "cannot average the weights"),
        (("--devices", "none"), "devices is a number"),
        (("--wandb", "project"), "pip install wandb"),
    ],
)
def test_hardware_that_is_not_there(
    settings: tuple[str, ...], message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("train", "--data", photos, "--out", tmp_path / "run", *settings) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "semantic_fpn"])
def test_two_processes_evaluate_boxes_and_pixels_as_one_does(kind: str, tmp_path: Path) -> None:
    """Five images, which two processes cannot share evenly; the summary is one process's, of the same weights."""
    data = write_scenes(tmp_path / "objects", train=8, validation=5, size=(64, 80))
    small = ("--short", 64, "--long", 80) if kind == "retinanet" else ("--augmentation.crop", 64)
    settings = ("--recipe", f"scenes/{kind}", "--data", data, "--epochs", 1, "--epoch-steps", 8, "--batch-size", 2,
                "--pyramid-channels", 16, "--ema-decay", 0.5, "--accelerator", "cpu", *small)  # fmt: skip
    process = Training(*settings, "--out", tmp_path / "run", processes=2)
    text = process.communicate()
    assert process.returncode == 0, text
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    with (tmp_path / "run/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert summary["validation_images"] == 5
    if kind == "retinanet":
        assert float(row["val/box_AP50"]) == pytest.approx(summary["box"]["AP50"], abs=1e-6)
    else:
        assert float(row["val/aAcc"]) == pytest.approx(summary["aAcc"], abs=1e-6)
        assert float(row["val/mIoU"]) == pytest.approx(summary["mIoU"], abs=1e-6)
