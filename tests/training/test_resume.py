"""Runs that are killed, stopped, starved of disk space or resumed wrongly."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from helpers.commands import TWO_BLOCKS, paint, run
from helpers.processes import Training, until_saved
from transxnet.training.checkpointing import damage, newest_whole, saved

ROOT = Path(__file__).parents[2]
NANO = ("--image-size", "32", "--batch-size", "8", "--epochs", "2", "--warmup-epochs", "0", "--drop-path", "0.1",
        "--mixup", "0.3", "--checkpoint-minutes", "0.001")  # fmt: skip
SETTINGS = (*TWO_BLOCKS, *NANO)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_and_resume", ROOT / "benchmarks/kill_and_resume.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    paint(folder, 20)
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run("train", "--data", photos, *SETTINGS, "--out", folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_runs_go_on_to_the_same_bits() -> None:
    script = [sys.executable, str(ROOT / "benchmarks/kill_and_resume.py"), "--kills", "3", "--workers", "0"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("identical") == 4


def test_the_number_of_workers_changes_no_bit(photos: Path, whole: Path, tmp_path: Path, benchmark: ModuleType) -> None:
    """A run without workers, stopped by SIGTERM, goes on with two."""
    stopped_by_sigterm(photos, tmp_path / "run", workers=0)
    assert run("train", "--resume", tmp_path / "run", "--workers", 2) == 0
    assert benchmark.same(benchmark.contents(whole), benchmark.contents(tmp_path / "run"))


@pytest.mark.slow  # the workers' own server imports PyTorch once more
def test_a_run_with_workers_goes_on_without(photos: Path, whole: Path, tmp_path: Path, benchmark: ModuleType) -> None:
    stopped_by_sigterm(photos, tmp_path / "run", workers=2)
    assert run("train", "--resume", tmp_path / "run", "--workers", 0) == 0
    assert benchmark.same(benchmark.contents(whole), benchmark.contents(tmp_path / "run"))


def stopped_by_sigterm(photos: Path, folder: Path, workers: int) -> None:
    """Start a run that is stopped after its first checkpoint."""
    process = Training("--data", photos, *SETTINGS, "--out", folder, "--workers", workers)
    until_saved(folder, process)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate()
    assert process.returncode == 0, printed
    assert "stopped by SIGTERM" in printed and f"transxnet train --resume {folder}" in printed
    assert not (folder / "summary.json").exists()


@pytest.mark.slow
def test_a_killed_run_s_workers_end_too(photos: Path, tmp_path: Path) -> None:
    process = Training("--data", photos, *SETTINGS, "--epochs", 50, "--out", tmp_path / "run", "--workers", 2)
    until_saved(tmp_path / "run", process)
    process.kill()
    process.communicate()  # the output's end: nobody is left to write


def test_the_first_interrupt_saves_and_stops(photos: Path, tmp_path: Path) -> None:
    process = Training("--data", photos, *SETTINGS, "--epochs", 50, "--out", tmp_path / "run")
    until_saved(tmp_path / "run", process)
    process.send_signal(signal.SIGINT)
    printed = process.communicate()
    assert process.returncode == 130 and "everything is saved" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_the_second_interrupt_stops_at_once_and_says_what_is_lost(photos: Path, tmp_path: Path) -> None:
    settings = ("--data", photos, *SETTINGS[:-2], "--checkpoint-minutes", 0, "--batch-size", 16, "--epochs", 50)
    process = Training(*settings, "--image-size", 320, "--out", tmp_path / "run")  # steps of seconds
    until_saved(tmp_path / "run", process)
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    printed = process.communicate()
    assert process.returncode == 130
    assert "what came after the last checkpoint is lost" in printed and "Traceback" not in printed


def test_a_finished_run_says_so(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--resume", whole) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_run_that_lacks_only_its_results_gets_them(whole: Path, tmp_path: Path, benchmark: ModuleType) -> None:
    expected = benchmark.contents(whole)
    for name in ("summary.json", "weights.safetensors", "samples.png"):
        (whole / name).rename(tmp_path / name)
    assert run("train", "--resume", whole) == 0
    assert benchmark.same(expected, benchmark.contents(whole))


def test_settings_that_decide_the_result_cannot_change(
    whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole / "summary.json").rename(whole / "elsewhere.json")
    assert run("train", "--resume", "auto", "--out", whole, "--data", photos, "--lr", 0.5) == 2
    (whole / "elsewhere.json").rename(whole / "summary.json")
    printed = capsys.readouterr().err
    assert "started with other settings: lr is 0.001 there, 0.5 here" in printed


def resumable_copy(whole: Path, folder: Path) -> Path:
    """A copy of a run that lacks only its results."""
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink(missing_ok=True)
    return folder


def test_changed_data_is_named_and_refused_unless_it_is_accepted(
    whole: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resumable_copy(whole, tmp_path / "run")
    (photos / "rose/0.png").rename(tmp_path / "0.png")
    for name in ("new", "newer"):
        shutil.copy(photos / "leaf/0.png", photos / f"leaf/{name}.png")
    try:
        assert run("train", "--resume", folder) == 2
        printed = capsys.readouterr().err
        assert "2 images added" in printed and "leaf/new.png" in printed and "1 image removed" in printed
        assert "--data-changed accept" in printed and printed.count("\n") == 1
        assert run("train", "--resume", folder, "--data-changed", "accept") == 0
        printed = capsys.readouterr().out
        assert "the data changed since the run was started: 2 images added" in printed
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["training_images"] + summary["validation_images"] == 41
        assert summary["data"] == {
            name: value
            for name, value in json.loads((folder / "data.json").read_text()).items()
            if name != "fingerprint"
        }
        (photos / "bird").mkdir()
        shutil.copy(photos / "leaf/0.png", photos / "bird/0.png")
        (folder / "summary.json").unlink()
        assert run("train", "--resume", folder, "--data-changed", "accept") == 2
        assert "classes: bird added. Its network has other classes" in capsys.readouterr().err
    finally:
        shutil.rmtree(photos / "bird", ignore_errors=True)
        (tmp_path / "0.png").rename(photos / "rose/0.png")
        for name in ("new", "newer"):
            (photos / f"leaf/{name}.png").unlink()


def test_a_run_without_a_fingerprint_is_resumed_with_a_remark(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resumable_copy(whole, tmp_path / "run")
    newest = saved(folder / "checkpoints")[0]
    content = torch.load(newest, weights_only=True)
    del content["transxnet_data"]
    torch.save(content, newest)
    assert run("train", "--resume", folder) == 0
    assert "this run has no fingerprint of its data" in capsys.readouterr().out
    assert (folder / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_auto_starts_a_run_where_there_is_none(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ("--data", photos, *SETTINGS, "--epochs", 1)
    assert run("train", "--resume", "auto", *settings) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "summary.json").exists()
    (folder / "summary.json").unlink()
    assert run("train", "--resume", "auto", *settings) == 0  # the same one, since it is not finished
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]


@pytest.fixture(scope="module")
def checkpoint(whole: Path) -> bytes:
    return saved(whole / "checkpoints")[0].read_bytes()


@pytest.mark.parametrize("tenth", range(10))
def test_a_torn_checkpoint_is_passed_over(
    checkpoint: bytes, tenth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "epoch0000-step00000004.ckpt").write_bytes(checkpoint)
    torn = tmp_path / "epoch0001-step00000008.ckpt"
    torn.write_bytes(checkpoint[: len(checkpoint) * tenth // 10])
    assert newest_whole(tmp_path, Console(soft_wrap=True)) == tmp_path / "epoch0000-step00000004.ckpt"
    assert f"{torn} cannot be used" in capsys.readouterr().out


def test_flipped_bytes_are_found_wherever_they_matter(checkpoint: bytes, tmp_path: Path, benchmark: ModuleType) -> None:
    path = tmp_path / "epoch0000-step00000004.ckpt"
    path.write_bytes(checkpoint)
    expected = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    found = 0
    for offset in torch.randint(len(checkpoint), (30,), generator=generator).tolist():
        path.write_bytes(checkpoint[:offset] + bytes([checkpoint[offset] ^ 0x40]) + checkpoint[offset + 1 :])
        if damage(path) is None:  # between the parts of the archive
            assert benchmark.same(torch.load(path, weights_only=True), expected)
        else:
            found += 1
    assert found > 25


def test_a_damaged_newest_checkpoint_costs_only_the_time_since_the_one_before(
    photos: Path, whole: Path, tmp_path: Path, benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    process = Training("--data", photos, *SETTINGS, "--out", tmp_path / "run")
    while len(saved(tmp_path / "run/checkpoints")) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    newest = saved(tmp_path / "run/checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert run("train", "--resume", newest) == 2
    assert f"training cannot be resumed from {newest}" in capsys.readouterr().err
    assert run("train", "--resume", "auto", "--out", tmp_path / "run") == 0
    assert f"{newest.name} cannot be used" in capsys.readouterr().out
    assert benchmark.same(benchmark.contents(whole), benchmark.contents(tmp_path / "run"))


@pytest.mark.slow
def test_a_full_disk_stops_neither_training_nor_spoils_the_checkpoint_before(photos: Path, tmp_path: Path) -> None:
    assert run("train", "--data", photos, *NANO, "--out", tmp_path / "whole") == 0
    process = Training("--data", photos, *NANO, "--out", tmp_path / "run")
    until_saved(tmp_path / "run", process)
    process.kill()
    process.communicate()
    kept = saved(tmp_path / "run/checkpoints")
    # Files of at most 8 MB: checkpoints (19 MB) fail, the weights (5 MB) can be written.
    process = Training("--resume", tmp_path / "run", limit=8_000_000)
    printed = process.communicate()
    assert process.returncode == 0, printed
    assert printed.count("no checkpoint at step") >= 2 and "File too large" in printed
    assert saved(tmp_path / "run/checkpoints") == kept
    assert damage(kept[0]) is None
    expected, result = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "run"))
    assert expected == result


def foreign_weights(checkpoint: bytes) -> Any:
    return {"stem.conv.weight": torch.zeros(3)}


def a_network_in_another_layout(checkpoint: bytes) -> Any:
    return {"state_dict": {"stem.conv.weight": torch.zeros(3)}, "epoch": 3, "optimizer": {}}


def parts_of_other_kinds(checkpoint: bytes) -> Any:
    return torch.load(io.BytesIO(checkpoint), weights_only=True) | {"loops": 3, "transxnet_progress": "all"}


def another_network(checkpoint: bytes) -> Any:
    content = torch.load(io.BytesIO(checkpoint), weights_only=True)
    return content | {"state_dict": dict(list(content["state_dict"].items())[:-1])}


def no_loops(checkpoint: bytes) -> Any:
    return torch.load(io.BytesIO(checkpoint), weights_only=True) | {"loops": {}}


def no_optimizer(checkpoint: bytes) -> Any:
    return torch.load(io.BytesIO(checkpoint), weights_only=True) | {"optimizer_states": [{"state": 1}]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_weights, "it holds no training run: it lacks state_dict, optimizer_states"),
        (a_network_in_another_layout, "it holds no training run: it lacks optimizer_states, loops"),
        (parts_of_other_kinds, "it holds no training run: it lacks loops, transxnet_progress"),
        (another_network, "the checkpoint holds another network, transxnet_nano: 1 tensors differ"),
        (no_loops, "training cannot be resumed from"),
        (no_optimizer, "training cannot be resumed from"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    make: Callable[[bytes], Any], message: str, checkpoint: bytes, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    torch.save(make(checkpoint), tmp_path / "theirs.ckpt")
    settings = ("--data", photos, *SETTINGS, "--out", tmp_path / "run")
    assert run("train", "--resume", tmp_path / "theirs.ckpt", *settings) == 2
    printed = capsys.readouterr().err
    assert message in printed and len(printed.strip().splitlines()) == 1


def test_a_change_of_kernels_is_reported_and_recorded(
    checkpoint: bytes, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(io.BytesIO(checkpoint), weights_only=True)
    computed = content["transxnet_progress"]["kernels"]
    assert json.loads((whole / "summary.json").read_text())["kernels"] == computed
    other = "reference" if computed == ["native"] else "native"
    content["transxnet_progress"]["kernels"] = [other]
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    torch.save(content, tmp_path / "run/checkpoints" / saved(whole / "checkpoints")[0].name)
    assert run("train", "--resume", tmp_path / "run") == 0
    assert f"{other} kernels computed this run so far" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/summary.json").read_text())["kernels"] == [other, *computed]
