"""Files and folders that this user may not read or write: each command says so in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.coco_files import content, write
from helpers.commands import run
from helpers.networks import nano
from helpers.packed_files import fill
from helpers.permissions import binding_permissions
from transxnet.checkpoints.writing import save_model
from transxnet.errors import CheckpointError, ConfigError
from transxnet.files import write_text
from transxnet.training.checkpointing import damage, saved
from transxnet.training.run_folder import is_run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(
        tmp_path / "photos", [f"{part}/{name}/{i}.png" for part in ("train", "val") for name in "ab" for i in "12"]
    )


@contextlib.contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with binding_permissions():
            yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "names alone"])
@pytest.mark.parametrize("name", ["", "val", "val/b"])
def test_a_closed_folder_is_never_left_out(
    photos: Path, name: str, mode: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(nano(num_classes=2), tmp_path / "weights.safetensors")
    with closed(photos / name, mode):
        if (name, mode) == ("val/b", 0o444):  # its images can be listed, and each is broken
            assert run("data", "check", photos) == 1
            assert capsys.readouterr().out.count("cannot be read (Permission denied)") == 2
            return
        for command in (
            ("data", "check", photos),
            ("train", "--data", photos, "--out", tmp_path / "run"),
            ("eval", "--data", photos, "--checkpoint", tmp_path / "weights.safetensors"),
        ):
            assert run(*command) == 2
            printed = capsys.readouterr().err
            assert str(photos / name) in printed and "ermission denied" in printed and printed.count("\n") == 1


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "names alone"])
@pytest.mark.parametrize("name", ["images", "images/default"])
def test_a_closed_folder_does_not_hide_annotated_images(
    name: str, mode: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor the images of a part that is found beside it."""
    data = tmp_path / "data"
    described = content(4)
    described["images"][0]["file_name"] = "first.jpg"
    write(data / "annotations/instances_default.json", described, data / "images/default")
    (data / "images/default/first.jpg").rename(data / "first.jpg")
    with closed(data / name, mode):
        status = run("data", "check", data)
    printed = capsys.readouterr()
    if (name, mode) == ("images/default", 0o444):  # its images can be listed, and each is broken
        assert status == 1 and printed.out.count("cannot be read (Permission denied)") == 3
    else:
        assert status == 2 and printed.err.count("\n") == 1
        assert "images" in printed.err and "cannot be read: Permission denied; it may hold the 3 images" in printed.err


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_closed_folder_of_masks_or_their_images(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fill(tmp_path / "data", [f"{folder}/{index}.png" for folder in ("images", "masks") for index in "12"])
    for path in (data / "masks").iterdir():
        Image.linear_gradient("L").point(lambda level: level // 128).save(path)
    with closed(data / name):
        assert run("data", "check", data) == 2
    assert f"{data / name} cannot be read: Permission denied" in capsys.readouterr().err
    with closed(data / name, 0o444):  # its files can be listed
        assert run("data", "check", data) == (1 if name == "images" else 2)
    printed = capsys.readouterr()
    assert "Permission denied" in printed.out + printed.err


def test_a_link_to_a_closed_folder_is_no_missing_class(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir()
    (photos / "val/b").rename(tmp_path / "locked/b")
    (photos / "val/b").symlink_to(tmp_path / "locked/b")
    with closed(tmp_path / "locked"):
        assert run("data", "check", photos) == 2
    assert f"{photos / 'val/b'} cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "exported.onnx", "exported.pt2"])
def test_closed_weights_are_not_called_truncated(
    photos: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"state_dict": nano().state_dict()}, path)
    elif path.suffix == ".safetensors":
        save_model(nano(), path)
    else:
        path.write_bytes(b"x")
    with closed(path):
        assert run("predict", photos, "--checkpoint", path) == 2
    assert f"{path} cannot be read: Permission denied" in capsys.readouterr().err


def test_a_closed_run_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints/epoch0000-step00000001.ckpt"
    write_text(tmp_path / "config.yaml", "task: classification\n")
    write_text(checkpoint, "")
    with closed(tmp_path / "config.yaml"), pytest.raises(ConfigError, match="config.yaml cannot be read: Permission"):
        is_run(tmp_path)
    with closed(checkpoint.parent), pytest.raises(CheckpointError, match="checkpoints cannot be read: Permission"):
        saved(checkpoint.parent)
    with closed(checkpoint), pytest.raises(CheckpointError, match="cannot be read: Permission"):
        damage(checkpoint)


def test_a_closed_output_is_refused_without_advice_on_room(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    for command in (("train", "--data", photos, "--out"), ("data", "shard", photos)):
        with closed(tmp_path / "out", 0o555):
            assert run(*command, tmp_path / "out/new") == 2
        printed = capsys.readouterr().err
        assert "cannot be written" in printed and "Permission denied" in printed and "room" not in printed
