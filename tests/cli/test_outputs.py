"""Where commands write: never over an input, never over a file that is not theirs without --force."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

import transxnet
from helpers.commands import paint, run
from helpers.networks import lively_dense, nano

WORDS = "mine, and nobody else's\n"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes; folders have none."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two classes, and weights of a classifier and of a segmenter."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (40, 40), colour).save(folder / f"photos/{name}/{index}.png")
    transxnet.save_model(nano(num_classes=2), folder / "weights.safetensors")
    transxnet.save_model(lively_dense("semantic_fpn"), folder / "segmenter.safetensors")
    (folder / "coco/annotations").mkdir(parents=True)
    (folder / "coco/annotations/instances_val.json").write_text("{}")
    return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the inputs."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES: dict[str, tuple[Sequence[str], str]] = {
    "predict": (("predict", "photos", "--checkpoint", "weights.safetensors", "--out"), "out.csv"),
    "eval": (("eval", "--data", "coco", "--checkpoint", "weights.safetensors", "--results"), "out.json"),
    "convert": (("convert", "weights.safetensors"), "out.safetensors"),
    "export": (("export", "weights.safetensors", "--format", "onnx", "--out"), "out.onnx"),
    "tables": (("tables", "1", "--out"), "out.md"),
    "plot": (("plot", "accuracy", "--out"), "out.png"),
    "erf": (("erf", "photos", "--model", "transxnet_nano", "--out"), "out.png"),
    "gradcam": (("gradcam", "photos", "--model", "transxnet_nano", "--out"), "out.png"),
    "bench --csv": (("bench", "transxnet_nano", "--csv"), "out.csv"),
    "bench --plot": (("bench", "transxnet_nano", "--plot"), "out.png"),
}
FOLDERS: dict[str, Sequence[str]] = {
    "train": ("train", "--data", "photos", "--out"),
    "train --resume auto": ("train", "--data", "photos", "--resume", "auto", "--out"),
    "compare": ("compare", "transxnet_nano", "--data", "photos", "--out"),
    "predict": ("predict", "photos", "--checkpoint", "segmenter.safetensors", "--out"),
    "data shard": ("data", "shard", "photos"),
    "data scenes": ("data", "scenes"),
    "publish": ("publish", "weights.safetensors"),
}


def refused(here: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line that a command is refused with; everything in the working folder is as before."""
    before = contents(here)
    assert run(*arguments) == 2
    assert contents(here) == before
    line = capsys.readouterr().err
    assert len(line.strip().splitlines()) == 1
    return line


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_exists_is_not_replaced(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, name = FILES[command]
    (here / name).write_text(WORDS)
    line = refused(here, capsys, *arguments, name)
    assert name in line and "--force" in line


@pytest.mark.parametrize("sibling", ["out.bin", "out.unchecked.xml", "out.boxes.xml"])
def test_an_export_replaces_no_file_beside_its_own(
    sibling: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / sibling).write_text(WORDS)
    arguments = ("export", "weights.safetensors", "--format", "openvino", "--out", "out.xml")
    assert sibling in refused(here, capsys, *arguments)


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("name", ["weights.safetensors", ".hidden", "sub/.curves.12.tmp.png"])
def test_a_folder_that_holds_other_files_is_left_alone(
    command: str, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out" / name).parent.mkdir(parents=True)
    (here / "out" / name).write_text(WORDS)
    assert "out contains" in refused(here, capsys, *FOLDERS[command], "out")


@pytest.mark.parametrize("command", [*FILES, *(f"{name} FOLDER" for name in FOLDERS)])
@pytest.mark.parametrize("kind", ["folder", "pipe", "below a file", "long", "nobody's", "empty"])
def test_what_cannot_be_written_is_refused_before_any_work(
    command: str, kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = command.endswith(" FOLDER")
    arguments, name = (FOLDERS[command.removesuffix(" FOLDER")], "out") if folder else FILES[command]
    suffix = Path(name).suffix
    if kind == "folder":
        if folder:
            return  # which is what is wanted
        (here / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(here / name)
    elif kind == "below a file":
        name = f"weights.safetensors/{name}"
    elif kind == "long":
        name = "n" * 300 + suffix
    elif kind == "nobody's":
        name = f"~nobody-of-this-name/x{suffix}"
    else:
        name = ""
    before = sorted(str(path) for path in here.rglob("*"))
    assert run(*arguments, name) == 2
    assert sorted(str(path) for path in here.rglob("*")) == before
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


INPUTS: dict[str, Callable[[Path], Sequence[str]]] = {
    "an image": lambda here: ("erf", "cat.png", "--model", "transxnet_nano", "--out", "cat.png"),
    "an image by another name": lambda here: ("gradcam", "cat.png", "--model", "transxnet_nano", "--out", "linked.png"),
    "a checkpoint": lambda here: ("convert", "weights.safetensors", "weights.safetensors"),
    "an image that is called a table": lambda here: (
        "predict", "cat.csv", "--checkpoint", "weights.safetensors", "--out", "cat.csv",
    ),
    "annotations": lambda here: (
        "eval", "--data", "coco", "--checkpoint", "weights.safetensors", "--results",
        "coco/annotations/instances_val.json",
    ),
    "photographs": lambda here: ("predict", "photos", "--checkpoint", "segmenter.safetensors", "--out", "photos"),
    "a photograph": lambda here: (
        "predict", "photos/cat/0.png", "--checkpoint", "segmenter.safetensors", "--out", "photos/cat",
    ),
    "photographs in folders": lambda here: (
        "predict", "photos", "--checkpoint", "segmenter.safetensors", "--out", "photos/cat",
    ),
    "a hard link of a photograph": lambda here: (
        "predict", "cat.png", "--checkpoint", "segmenter.safetensors", "--out", "links",
    ),
    "training data": lambda here: ("train", "--data", "photos", "--out", "photos"),
    "a class": lambda here: ("train", "--data", "photos", "--out", "photos/run"),
    "a folder around the data": lambda here: ("train", "--data", "photos/cat", "--out", "photos"),
    "weights to start from": lambda here: (
        "train", "--data", "photos", "--checkpoint", "weights.safetensors", "--out", ".",
    ),
    "data that is compared on": lambda here: ("compare", "transxnet_nano", "--data", "photos", "--out", "photos/runs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_an_input_is_never_written_over(
    kind: str, force: Sequence[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat.png", "cat.csv"):
        (here / name).write_bytes((here / "photos/cat/0.png").read_bytes())
    (here / "linked.png").symlink_to("cat.png")
    (here / "links").mkdir()
    os.link(here / "cat.png", here / "links/cat.png")
    refused(here, capsys, *INPUTS[kind](here), *force)


def test_data_in_the_working_folder_needs_a_place_for_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here / "photos")  # runs/ would be a class the next time
    assert "would be read as data" in refused(here, capsys, "train", "--data", ".")


def test_with_force_a_file_is_replaced_and_a_link_stays(here: Path) -> None:
    (here / "real.md").write_text(WORDS)
    (here / "link.md").symlink_to("real.md")
    assert run("tables", "1", "--out", "link.md", "--force") == 0
    assert (here / "link.md").is_symlink()
    assert "Table I" in (here / "real.md").read_text()


def test_pictures_in_a_folder_of_other_files_with_force(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/notes.txt").write_text(WORDS)
    command = ("predict", "photos/cat/0.png", "--checkpoint", "segmenter.safetensors", "--out", "out")
    assert run(*command, "--force") == 0
    assert (here / "out/notes.txt").read_text() == WORDS
    assert (here / "out/0.png").is_file()


def test_a_home_folder_is_expanded_in_every_spelling(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert run("tables", "1", "--out=~/table.md") == 0
    assert (here / "table.md").is_file() and not (here / "~").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    data, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("runs") / "run"
    paint(data, 5)
    fast = ("--epochs", 1, "--image-size", 32, "--batch-size", 8, "--native-kernels", "false")
    assert run("train", "--data", data, *fast, "--out", folder) == 0
    return folder


def test_a_run_is_known_by_what_we_wrote(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    for options in ((), ("--force",)):
        assert run("train", "--out", finished, *options) == 2
        assert "holds a run already" in capsys.readouterr().err
    assert run("train", "--resume", finished) == 0
    assert contents(finished) == before


def test_a_foreign_configuration_makes_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out/config.yaml").write_text("services: {web: {image: nginx}}\n")
    assert "out contains other files" in refused(here, capsys, "train", "--resume", "auto", "--out", "out")


def test_leftovers_of_others_stay(finished: Path) -> None:
    from transxnet.files import remove_leftovers

    theirs, ours = finished / "checkpoints/.notes.tmp.md", finished / "checkpoints/.transxnet-1a2b.tmp.ckpt"
    theirs.write_text(WORDS)
    ours.write_text("half")
    remove_leftovers(finished / "checkpoints")
    assert theirs.exists() and not ours.exists()
    theirs.unlink()


def test_results_of_comparisons_are_read_with_care(finished: Path, tmp_path: Path) -> None:
    from transxnet.research.compare import is_comparison

    assert not is_comparison(finished.parent)
    (tmp_path / "transxnet_nano").mkdir()
    (tmp_path / "transxnet_nano/seed0").symlink_to(finished)
    assert is_comparison(tmp_path)
