"""Finished runs, as ``transxnet publish`` takes them, without the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

import transxnet
from helpers.networks import nano
from transxnet.classification.recipe import ClassificationRecipe

NAMES = ["a: b, https://x.y www.x.y @z", "|x|", "<script>alert(1)</script>", "two\nlines", "\U0001f600 猫", "\udcff",
         "# [x](y) ![](z)", "`$_*~&amp;", "---", "n" * 300]  # fmt: skip
SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "img_size": 32}
SUMMARY: dict[str, Any] = {
    "headline": "test accuracy 75.00%", "top1": 0.75, "top5": None, "validation_images": 4, "epochs": 3, "steps": 12,
    "images_per_step": 8, "learning_rate": 0.001, "seconds": 61.0, "skipped_steps": 2,
    "bad_images": {"/home/someone/photos/x.png": "damaged"}, "versions": {"python": "3.11.7", "torch": "2.9.1"},
}  # fmt: skip


def write_run(folder: Path, network: Any, recipe: Any, summary: dict[str, Any], names: list[str]) -> Path:
    """A run folder as training leaves it, without the training."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(recipe.to_yaml())
    parts = [
        {"name": "training", "origin": f"{recipe.data}/train", "images": 20, "unit": "images",
         "counts": {name: index for index, name in enumerate(names)}},
        {"name": "validation", "origin": f"a fifth of {recipe.data}/{'part ' * 20}, held out", "images": 4,
         "unit": "images", "counts": dict.fromkeys(names, 1)},
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"layout": "class folders", "parts": parts, "problems": {"empty": 3}}))
    (folder / "summary.json").write_text(json.dumps(summary))
    transxnet.save_model(network, folder / "weights.safetensors")
    for name in ("samples.png", "curves.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def classifier_run(folder: Path) -> Path:
    """A finished run of a classifier with odd class names, on data in somebody's folder."""
    network = nano(**SMALL)
    network.pretrained_cfg["label_names"] = NAMES
    recipe = ClassificationRecipe(
        data="/home/someone/my photos", checkpoint="https://me:secret@host/w.pth?key=1", ema_decay=0.9, wandb="private"
    )
    return write_run(folder, network, recipe, SUMMARY, NAMES)
