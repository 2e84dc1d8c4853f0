"""Facts of a run in the files that ``transxnet publish`` writes: no folders, users or keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transxnet.api.run_facts import find_facts
from transxnet.classification.recipe import ClassificationRecipe


def write_run(folder: Path, recipe: ClassificationRecipe, data: dict[str, Any]) -> Path:
    (folder / "config.yaml").write_text(recipe.to_yaml())
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "weights.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "published"),
    [
        ("https://Me:secret@Host.org:8443/w.pth?key=1#part", "https://Host.org:8443/w.pth"),
        ("http://[::1]:80/w.pth", "http://[::1]:80/w.pth"),
        ("http://[bad/w.pth", "http://[bad/w.pth"),
        ("file:///home/jane%20doe/w.pth", "w.pth"),
        ("/home/jane doe/w.pth", "w.pth"),
    ],
)
def test_addresses_are_published_without_what_is_private(checkpoint: str, published: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, ClassificationRecipe(data="photos", checkpoint=checkpoint), {})
    assert find_facts(run).recipe["checkpoint"] == published


@pytest.mark.parametrize(
    ("origin", "published"),
    [
        ("a fifth of /home/jane doe/x/train, held out", "a fifth of train, held out"),
        ("COCO (/mnt/doe, jane/coco)", "COCO (coco)"),
        ("~jane/x", "x"),
        ("C:\\Users\\jane doe\\x", "x"),
        ("/data/set/train", "set/train"),
        ("/data/settings of jane/train", "train"),
        ("train/a b", "train/a b"),
    ],
)
def test_folders_are_left_out_of_texts(origin: str, published: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, ClassificationRecipe(data="/data/set"), {"parts": [{"origin": origin}]})
    assert find_facts(run).data == {"parts": [{"origin": published}]}
