"""Recipes and run folders damaged at random: they are read, or one line names the file."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from helpers.commands import paint, run
from helpers.damage import DAMAGES, altered, bounded_memory, spoilt
from helpers.forked import limited
from transxnet.api.training import find_job
from transxnet.cli.train import parse_recipe
from transxnet.errors import TransXNetError
from transxnet.training.checkpointing import newest_whole, resumable, saved
from transxnet.training.recipe import recipe_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RESUMED = DAMAGES // 10
"""Damaged checkpoints that are resumed from, each a training of its own."""


def was_read(read: Callable[[], object], path: Path) -> bool:
    """Whether something was read; otherwise one line has named the file."""
    line = ""
    try:
        read()
    except TransXNetError as error:
        line = str(error)
    assert not line or (str(path) in line and "\n" not in line), line
    return not line


@pytest.mark.parametrize("name", ["digits", "pictures", "scenes/mask_rcnn", "scenes/semantic_fpn"])
def test_recipes(name: str, tmp_path: Path) -> None:
    whole = recipe_path(name).read_text()
    settings, path = yaml.safe_load(whole), tmp_path / "recipe.yaml"
    generator = np.random.default_rng(list(name.encode()))
    count = 0
    with bounded_memory():
        for index in range(DAMAGES):
            if index % 2:
                path.write_bytes(spoilt(whole.encode(), generator))
            else:
                path.write_text(yaml.safe_dump(altered(settings, generator)))
            count += was_read(lambda: parse_recipe(["--recipe", str(path)]), path)
    assert 0 < count < DAMAGES


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    data = tmp_path_factory.mktemp("data") / "photos"
    paint(data, 12)
    folder = data.parent / "run"
    status = run(
        "train", "--data", data, "--out", folder, "--image-size", 32, "--batch-size", 4, "--epochs", 2,
        "--warmup-epochs", 0, "--workers", 0, "--keep-checkpoints", 3,
    )  # fmt: skip
    assert status == 0
    return folder


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run as it was after the first epoch."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("summary.json", "weights.safetensors", "samples.png", "curves.png"):
        (folder / name).unlink()
    newest = saved(folder / "checkpoints")[0]
    newest.unlink()
    return folder


def test_configurations_of_runs(stopped: Path) -> None:
    path = stopped / "config.yaml"
    whole = path.read_text()
    settings = yaml.safe_load(whole)
    generator = np.random.default_rng(5)
    count = 0
    for index in range(DAMAGES):
        if index % 2:
            path.write_bytes(whole.encode()[:6] + spoilt(whole.encode()[6:], generator))
        else:
            changed = altered({name: value for name, value in settings.items() if name != "task"}, generator)
            path.write_text(yaml.safe_dump({"task": settings["task"]} | changed, sort_keys=False))
        count += was_read(lambda: find_job(resume=stopped).recipe({}), stopped)
    assert 0 < count < DAMAGES


def test_checkpoints_of_runs(stopped: Path) -> None:
    newest = saved(stopped / "checkpoints")[0]
    whole = newest.read_bytes()
    generator = np.random.default_rng(6)
    for _ in range(DAMAGES):
        content = spoilt(whole, generator)
        newest.write_bytes(content)
        lines = io.StringIO()
        with bounded_memory():
            found = newest_whole(stopped / "checkpoints", Console(file=lines, width=1000))
            named = was_read(lambda: resumable(str(newest)), newest)
        # Bytes between the parts of an archive may differ: nobody reads them.
        assert (found == newest) == named
        if found != newest:
            assert str(newest) in lines.getvalue() and len(lines.getvalue().splitlines()) == 1


def test_resuming_from_checkpoints_with_other_values(stopped: Path, tmp_path: Path) -> None:
    """Archives that are whole and hold something else: a run goes on, or one line names the file."""
    newest = saved(stopped / "checkpoints")[0]
    content: dict[str, Any] = torch.load(newest, weights_only=True)
    generator = np.random.default_rng(7)
    resumed = 0
    for index in range(RESUMED):
        folder = tmp_path / f"run{index}"
        shutil.copytree(stopped, folder)
        path = folder / "checkpoints" / newest.name
        part = str(generator.choice(sorted(content)))  # as often within a small part as within the weights
        torch.save(content | altered({part: content[part]}, generator), path)
        ended = limited("train", "--resume", path, seconds=600)
        if ended.status:
            assert path.name in ended.refusal, ended
        else:
            assert (folder / "summary.json").exists()
            resumed += 1
        assert "Traceback" not in ended.err
        shutil.rmtree(folder)
    assert 0 < resumed < RESUMED
