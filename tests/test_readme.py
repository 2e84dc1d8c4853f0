"""The first run, and every command and snippet of the documentation, run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import transxnet
from helpers.commands import paint, run
from helpers.forked import python
from transxnet.classification.evaluate import run_network
from transxnet.classification.labels import label_names
from transxnet.data.sources import open_evaluation

ROOT = Path(__file__).parents[1]
LONG = ("dense", "export", "gallery", "publishing", "quick-start", "tables", "training")
"""Pages whose commands take minutes."""

SLOW = ("export", "transformers")
"""Words in snippets that take long, with libraries whose imports do."""

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    lines = "".join(blocks(page, "bash")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


@pytest.fixture
def desk(tmp_path: Path, released_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything the documentation's examples name."""
    (tmp_path / "transx-t.pth.tar").hardlink_to(released_file)
    paint(tmp_path / "photos", 5)
    for folder in ("imagenet/val/n01440764", "imagenet/val/n02124075", "imagenetv2/7", "imagenetv2/10"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (80, 60), (200, 90, 40)).save(tmp_path / folder / "a.jpg")
    Image.new("RGB", (80, 60), (200, 90, 40)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _InSixteenBits(nn.Module):
    def __init__(self, fused: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.fused, self.dtype, self.pretrained_cfg = fused, dtype, fused.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fused(x.to(self.dtype))
        return scores.float()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_run_reaches_99_per_cent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train") == 0
    (summary,) = tmp_path.glob("runs/*-digits/summary.json")
    assert json.loads(summary.read_text())["top1"] >= 0.99
    for picture in ("samples.png", "curves.png"):
        assert (summary.parent / picture).stat().st_size > 10_000
    model = transxnet.load_model(summary.parent)
    digits = open_evaluation("digits", label_names(model), model.num_classes)
    expected = run_network(model, digits).probabilities.argmax(1)
    for dtype in (torch.bfloat16, torch.float16):  # the native kernels choose the same classes in 16 bits
        network: Any = _InSixteenBits(transxnet.fuse(model, native=True).to(dtype), dtype)
        found = run_network(network, digits)
        assert (found.probabilities.argmax(1) == expected).float().mean() >= 0.99


def shortened(command: str) -> str:
    """The same command with one epoch of small images."""
    return re.sub(r"(?<=--image-size )\d+", "64", re.sub(r"(?<=--epochs )\d+", "1", command))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("page", "short"),
    [
        pytest.param(page, short, id=f"{page.name}{'' if short else ', whole'}", marks=[pytest.mark.slow] * slow)
        for page in PAGES
        for short, slow in ((True, page.stem in LONG), (False, True))
        if short or any(shortened(command) != command for command in commands(page))
    ],
)
def test_the_commands_run(page: Path, short: bool, desk: Path) -> None:
    for command in map(shortened, commands(page)) if short else commands(page):
        program, *arguments = shlex.split(command)
        if program == "make":
            subprocess.run([program, "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
        elif program == "torchrun":
            subprocess.run([sys.executable, "-m", "torch.distributed.run", *arguments], check=True, capture_output=True)
        elif command != "transxnet train":  # that is the first run, above
            assert program == "transxnet", command
            assert run(*arguments) == 0, command


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(
            page,
            code,
            id=f"{page.name}-{index}",
            marks=[pytest.mark.slow] * any(word in code for word in SLOW),
        )
        for page in PAGES
        for index, code in enumerate(blocks(page, "python"))
    ],
)
def test_the_snippets_run(page: Path, code: str, desk: Path) -> None:
    ended = python(code, folder=desk)
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
