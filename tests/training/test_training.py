"""What training does when numbers, memory or images fail, and what it says of its time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from helpers.commands import paint, run
from helpers.image_files import bad_images
from helpers.networks import images, nano
from helpers.poisoned import Poisoned
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.classification.task import ClassificationTask
from transxnet.data.loader import BadImages, Batch
from transxnet.data.sources import open_data
from transxnet.kernels import attend
from transxnet.training.nonfinite import FiniteSteps
from transxnet.training.task import WeightedMean

QUICK = ("--image-size", "32", "--batch-size", "4", "--warmup-epochs", "0", "--ema-decay", "0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    paint(folder, 10)
    return folder


def fit(poisoned: Sequence[int], finite: FiniteSteps, accumulate: int = 1) -> ClassificationTask:
    recipe = ClassificationRecipe(lr=1e-3, warmup_epochs=0, mixup=0, cutmix=0, epochs=1, cooldown_epochs=0)
    task = Poisoned(nano(num_classes=3).train(), recipe, BadImages(1, 0))
    task.poisoned = poisoned
    indices = torch.arange(16).split(4)
    batches = [Batch(images(4, 3, 32, 32) + i, torch.arange(4) % 3, indices[i], []) for i in range(4)]
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[finite], accumulate_grad_batches=accumulate, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return task


def names(indices: Sequence[int]) -> list[str]:
    return [f"image {index}" for index in indices]


def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in nano(num_classes=3).state_dict().items()}
    watch = FiniteSteps(5, names, tmp_path / "report.txt")
    task = fit([0, 1, 2, 3], watch)
    assert watch.skipped == 4
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    watch = FiniteSteps(2, names, tmp_path / "report.txt")
    task = fit([0, 2], watch)  # never two in a row
    assert watch.skipped == 2
    state = task.model.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert any(not torch.equal(value, before[name]) for name, value in state.items())


def test_one_bad_batch_spoils_the_step_that_it_is_accumulated_in(tmp_path: Path) -> None:
    watch = FiniteSteps(5, names, tmp_path / "report.txt")
    task = fit([1], watch, accumulate=2)
    assert watch.skipped == 1
    assert all(value.isfinite().all() for value in task.model.state_dict().values())


def test_too_many_steps_that_are_not_finite_stop_and_name_the_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*QUICK, "--lr", "1000", "--weight-decay", "1000", "--max-skipped", "2", "--out", tmp_path / "run")
    assert run("train", "--data", photos, *settings) == 2
    said = capsys.readouterr().err
    assert "2 steps in a row" in said and "--lr" in said
    listed = (tmp_path / "run/not_finite.txt").read_text().splitlines()
    assert len(listed) == 4 and all(Path(name).is_file() for name in listed)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_exhausted_memory_is_reported_with_what_helps(
    error: Exception, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> Tensor:
        raise error

    monkeypatch.setattr(ClassificationTask, "training_step", full)
    assert run("train", "--data", photos, *QUICK, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "out of memory with 4 images of 32 x 32" in said
    for lever in ("--batch-size", "--accumulate", "--grad-checkpointing", "--precision"):
        assert lever in said


def test_the_levers_work(photos: Path, tmp_path: Path) -> None:
    levers = ("--batch-size", 2, "--accumulate", 2, "--grad-checkpointing", "true", "--precision", "bf16-mixed")
    assert run("train", "--data", photos, *QUICK, "--epochs", 1, *levers, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["images_per_step"], summary["steps"], summary["skipped_steps"]) == (4, 4, 0)
    assert summary["images_per_second"] > 0 and summary["peak_memory_bytes"] > 1e8
    assert 0 <= summary["waiting_for_data"] <= 1


def test_attention_in_mixed_precision_does_not_overflow() -> None:
    q, k, v = (torch.full((1, 1, 4, 64), value) for value in (100.0, 100.0, 1.0))  # scores of 640,000 before scaling
    bias = torch.zeros(1, 1, 4, 4)
    with torch.autocast("cpu", dtype=torch.float16):
        z = attend(q.half(), k.half(), v.half(), bias)
    assert z.dtype == torch.float16
    assert torch.equal(z, v.half())


@pytest.mark.slow
def test_the_profile_reports_each_part_and_leaves_a_trace(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--data", photos, *QUICK, "--epochs", 3, "--profile", "--out", tmp_path / "run") == 0
    said = capfd.readouterr().out
    for part in ("data", "forward", "backward", "optimizer", "communication"):
        assert part in said
    trace = json.loads((tmp_path / "run/profile/trace-rank0.json").read_text())
    assert any("conv" in event.get("name", "") for event in trace["traceEvents"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """393 digits as pictures, and seven files that are broken in seven ways."""
    folder = tmp_path_factory.mktemp("many") / "digits"
    source = open_data("digits").train
    for index in range(393):
        path = folder / source.class_names[source.targets[index]] / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.load(index).save(path)
    broken = folder / "0" / "broken"
    broken.mkdir()
    bad_images(broken)
    whole = next(folder.glob("1/*.png")).read_bytes()
    (broken / "half.png").write_bytes(whole[: len(whole) // 2])
    (broken / "noise.jpg").write_bytes(b"\x89" * 2000)
    return folder


def broken_files(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "0/broken").iterdir()}


def test_seven_broken_images_of_four_hundred_are_named_and_training_ends(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = broken_files(many)
    assert len(broken) == 7
    settings = ("--image-size", 32, "--batch-size", 128, "--epochs", 1, "--warmup-epochs", 0, "--max-bad", 0.02)
    assert run("train", "--data", many, *settings, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    named = json.loads((tmp_path / "run/summary.json").read_text())["bad_images"]
    assert all(f"left out {name}: " in said for name in named)
    assert set(named) == broken


def test_three_per_cent_of_broken_images_stop_the_run(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [many / "1" / f"torn{index}.png" for index in range(5)]
    for path in more:
        path.write_bytes(b"not a picture")
    settings = ("--image-size", 32, "--batch-size", 128, "--epochs", 1, "--warmup-epochs", 0)
    assert run("train", "--data", many, *settings, "--out", tmp_path / "run") == 2
    for path in more:
        path.unlink()
    said = capsys.readouterr().err
    assert "images cannot be used, more than --max-bad 0.01 allows" in said and "(" in said


def test_shards_train_the_same_network_as_the_folder(photos: Path, tmp_path: Path) -> None:
    settings = ("--image-size", 32, "--batch-size", 4, "--epochs", 1, "--mixup", 0.2)
    assert run("data", "shard", photos, tmp_path / "shards", "--shard-mb", 1) == 0
    found = []
    for data, name in ((photos, "a"), (tmp_path / "shards", "b")):
        assert run("train", "--data", data, *settings, "--out", tmp_path / name) == 0
        found.append(torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True))
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, found[1][key][name]) for name, value in found[0][key].items())


@pytest.mark.slow
def test_fine_tuning_beats_training_from_scratch(tmp_path: Path) -> None:
    """From the digits 0 to 4 to a small folder of the digits 5 to 9, with the same recipe and time."""
    source, held_out = open_data("digits").train, open_data("digits").validation
    kept = {"first": range(5), "second": range(5, 10)}
    for name, digits in kept.items():
        limit = 80 if name == "first" else 12
        counts = dict.fromkeys(digits, 0)
        for index, target in enumerate(source.targets):
            if target in counts and counts[target] < limit:
                save(source.load(index), tmp_path / name / "train" / str(target), index)
                counts[target] += 1
        for index, target in enumerate(held_out.targets):
            if target in digits:
                save(held_out.load(index), tmp_path / name / "val" / str(target), index)
    first = ("--recipe", "digits", "--epochs", 8, "--batch-size", 32, "--out", tmp_path / "start")
    assert run("train", "--data", tmp_path / "first", *first) == 0
    results = {}
    plain = ("--augmentation.hflip", 0, "--augmentation.auto-augment", "", "--eval-crop", 1)
    for name, beginning in {
        "tuned": ("--checkpoint", tmp_path / "start"),
        "scratch": ("--model", "transxnet_nano", "--image-size", 32),
    }.items():
        settings = ("--recipe", "finetune", "--epochs", 8, "--batch-size", 12, *plain, *beginning)
        assert run("train", "--data", tmp_path / "second", *settings, "--out", tmp_path / name) == 0
        results[name] = json.loads((tmp_path / name / "summary.json").read_text())["top1"]
    assert results["tuned"] >= results["scratch"] + 0.1, results


def save(picture: Image.Image, folder: Path, index: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{index}.png")


def test_the_mean_loss_is_that_of_the_images() -> None:
    """A batch that is not full counts less, and one that was skipped not at all."""
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), 4)
    mean.update(torch.tensor(3.0), 1)
    mean.update(torch.tensor(0.0), torch.tensor(False) * 4)
    assert mean.compute() == pytest.approx(1.4)
