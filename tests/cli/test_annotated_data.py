"""``transxnet data check`` and ``train`` of folders with annotated objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.coco_files import content, ring, write
from helpers.commands import run
from transxnet.data.coco.run_lengths import from_mask


def cvat(root: Path, **changes: Any) -> Path:
    """A task as CVAT exports it, of which 8 of 12 objects have these changes."""
    described = content(12)
    for entry in described["annotations"][:8]:
        entry.update(changes)
    described["annotations"][-1]["category_id"] = 7
    write(root / "annotations/instances_default.json", described, root / "images/default")
    return root


def test_a_sound_export_has_status_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", cvat(tmp_path)) == 0
    assert "12 objects" not in capsys.readouterr().out  # of both parts
    assert run("data", "check", tmp_path, "--json") == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert sum(part["images"] for part in parts.values()) == 12
    assert run("data", "check", tmp_path / "annotations/instances_default.json") == 0


def test_crowds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cvat(tmp_path, iscrowd=1, segmentation=from_mask(ring()))
    assert run("data", "check", tmp_path) == 1
    printed = capsys.readouterr().out
    assert "--crowds as-objects" in printed and ": 8 (annotation 1," in printed
    assert run("data", "check", tmp_path, "--crowds", "as-objects") == 0
    assert "8 of 12 annotations are crowds taken as objects" in capsys.readouterr().out


def test_objects_without_a_mask_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", cvat(tmp_path, segmentation=[])) == 1
    assert "objects without a mask" in capsys.readouterr().out


@pytest.mark.parametrize("command", [("data", "check"), ("train", "--data")])
def test_formats_that_are_not_read_are_named(
    command: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cvat(tmp_path)
    (tmp_path / "annotations/instances_default.json").unlink()
    for path in (tmp_path / "images/default").iterdir():
        labelme = {"version": "5", "flags": {}, "shapes": [], "imagePath": path.name}
        (tmp_path / "images" / path.name).with_suffix(".json").write_text(json.dumps(labelme))
    assert run(*command, tmp_path) == 2
    assert "labelme2coco" in capsys.readouterr().err


def test_training_without_a_recipe_names_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--data", cvat(tmp_path)) == 2
    assert "name a recipe such as --recipe coco/retinanet_tiny" in capsys.readouterr().err
