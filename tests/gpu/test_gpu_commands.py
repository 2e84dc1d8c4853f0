"""Commands on a CUDA device: training in mixed precision, resumed, evaluated, and used."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import transxnet
from helpers.commands import run
from helpers.cuda_device import NEEDS_DEVICE
from transxnet.data.scenes import write_scenes

pytestmark = NEEDS_DEVICE

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "run"
    assert run("train", "--epochs", 6, "--out", folder) == 0
    return folder


def test_a_run_learns_in_mixed_precision(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And ``eval`` gives the same with the fused network, on the GPU and on the CPU."""
    assert "precision: bf16-mixed" in (digits / "config.yaml").read_text()
    scores = []
    for options in ([], ["--no-fuse"], ["--precision", "32"], ["--device", "cpu"]):
        capsys.readouterr()
        assert run("eval", "--data", "digits", "--checkpoint", digits, "--json", *options) == 0
        scores.append(json.loads(capsys.readouterr().out)["top1"])
    assert min(scores) > 0.9
    assert max(scores) - min(scores) < 0.01


@pytest.mark.parametrize(
    "settings",
    [("--precision", "16-mixed"), ("--compile", "network"), ("--compile", "blocks")],
    ids=" ".join,
)
def test_a_run_with_other_settings(settings: tuple[str, ...], tmp_path: Path) -> None:
    assert run("train", "--epochs", 2, *settings, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["top1"] > 0.3


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from transxnet.cli.main import main; main()", "train"]
    folder = tmp_path / "run"
    process = subprocess.Popen([*program, "--epochs", "4", "--checkpoint-minutes", "0.0001", "--out", str(folder)])
    while not list(folder.glob("checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    again = subprocess.run([*program, "--resume", str(folder)], capture_output=True, text=True)
    assert again.returncode == 0 and "resuming from" in again.stdout + again.stderr, again
    assert json.loads((folder / "summary.json").read_text())["top1"] > 0.5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=12, validation=6, size=(80, 96))


@pytest.mark.parametrize("kind", KINDS)
def test_detectors_and_segmenters(kind: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: tuple[Any, ...] = ("--augmentation.crop", 64, "--augmentation.short", 64) if kind == "semantic_fpn" else (
        "--short", 96, "--long", 96)  # fmt: skip
    settings = ("--recipe", f"scenes/{kind}", "--data", scenes, "--epochs", 2, "--epoch-steps", 3, *sizes)
    assert run("train", *settings, "--out", tmp_path / "run") == 0
    scores = []
    for options in ([], ["--device", "cpu", "--precision", "32"]):
        capsys.readouterr()
        assert run("eval", "--data", scenes, "--checkpoint", tmp_path / "run", "--json", *options) == 0
        found = json.loads(capsys.readouterr().out)
        scores.append(found["mIoU"] if kind == "semantic_fpn" else found["box"]["AP"])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    picture = next(iter(sorted((scenes / "images" / "validation").iterdir())))
    assert run("predict", picture, "--checkpoint", tmp_path / "run") == 0


def test_a_predictor(digits: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures: list[Any] = [torch.rand(3, 32, 32, generator=generator) for _ in range(5)]
    on_gpu, on_cpu = (transxnet.Predictor(digits, device=device)(pictures) for device in ("cuda", "cpu"))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        found = {answer["class"]: answer["probability"] for answer in one.to_dict()["answers"]}
        best = other.to_dict()["answers"][0]
        assert found.get(best["class"], 0) == pytest.approx(best["probability"], abs=0.1)


def test_speeds_of_all_modes(capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("eager", "channels_last", "compiled", "fused", "cuda_graph", "fused_cuda_graph")
    assert run("bench", "transxnet_nano", "--mode", *modes, "--precision", "fp32", "bf16_weights",
               "--rounds", 2, "--min-seconds", 0.01, "--batch-size", 4, "--json") == 0  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["results"]
    assert len(rows) == 2 * len(modes)
