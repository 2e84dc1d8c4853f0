"""Folders that ``transxnet publish`` writes to: replaced as a whole, and files of others left alone."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

import transxnet
from helpers.commands import run
from helpers.published_runs import NAMES, classifier_run


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a classifier, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return classifier_run(tmp_path / "run")


def test_a_folder_is_replaced_only_if_forced(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transxnet.publish(finished, "out")
    Path("out/mine.txt").write_text("mine")
    assert run("publish", finished, "out", "--no-pictures", "--json") == 2
    assert "--force" in capsys.readouterr().err and Path("out/samples.png").exists()
    assert run("publish", finished, "out", "--no-pictures", "--json", "--force") == 0
    printed = json.loads(capsys.readouterr().out)
    names = ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    assert printed["files"] == names and printed["classes"] == len(NAMES)
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*names, "mine.txt"])
    assert "samples.png" not in Path("out/README.md").read_text(encoding="utf-8")


def test_files_of_others_stay(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    (finished / "weights.safetensors").rename("plain.safetensors")
    for name in ("README.md", "recipe.yaml", "samples.png"):
        Path("out", name).write_text("mine: recipe.yaml samples.png")
    assert run("publish", "plain.safetensors", "out", "--force") == 0
    assert "samples.png was in the folder and stays" in capsys.readouterr().err
    for name in ("recipe.yaml", "samples.png"):
        assert Path("out", name).read_text() == "mine: recipe.yaml samples.png"
    assert run("publish", "plain.safetensors", "out", "--force") == 0  # a card that does not list them
    assert Path("out/samples.png").exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ("config.yaml", "other holds a training run"),
        ("weights.safetensors", "holds weights.safetensors, which would be loaded instead of model.safetensors"),
        ("config.json/", "config.json is a folder, not a file that can be replaced"),
        ("samples.png/", "samples.png is a folder, not a file that can be replaced"),
    ],
)
def test_a_folder_that_cannot_be_published_into(
    held: str, message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transxnet.publish(finished, "other")
    if held.endswith("/"):
        Path("other", held[:-1]).unlink()
        Path("other", held).mkdir()
    else:
        Path("other", held).write_bytes((finished / held).read_bytes())
    before = contents(Path("other"))
    assert run("publish", finished, "other", "--force", "--license", "mit") == 2
    line = capsys.readouterr().err
    assert message in line and len(line.strip().splitlines()) == 1
    assert contents(Path("other")) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def test_a_full_disk_is_no_fault_of_the_pictures(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run("publish", finished, "out") == 2
    line = capsys.readouterr().err
    assert "samples.png: No space left on device" in line and "cannot be read" not in line
    assert not Path("out").exists()


def test_an_error_leaves_nothing_behind(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transxnet.api.publishing.model_card", lambda about: 1 / 0)
    for folder in ("out", "there"):
        Path("there").mkdir(exist_ok=True)
        before = sorted(Path().rglob("*"))
        with pytest.raises(ZeroDivisionError):
            transxnet.publish(finished, folder)
        assert sorted(Path().rglob("*")) == before
