"""The transformers library over timm: folders of ours in its classes and its Trainer."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import transxnet
from helpers.commands import run
from helpers.networks import images, nano, same
from transxnet.data.transforms import evaluation_transform

pytestmark = pytest.mark.slow

NAMES = ["a: b", "|", "<script>", "two\nlines", "\U0001f600", "猫"]
SETTINGS: dict[str, Any] = {"num_classes": len(NAMES), "img_size": (64, 96), "layer_scale_init": "none"}


@pytest.fixture
def transformers() -> Any:
    """The library, whose import takes seconds."""
    return importlib.import_module("transformers")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    model = nano(**SETTINGS)
    model.pretrained_cfg |= {
        "label_names": NAMES,
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": (0.4, 0.5, 0.6),
    }
    return transxnet.save_folder(model, tmp_path / "folder")


@torch.inference_mode()
def test_outputs_labels_and_preprocessing_are_the_same(
    transformers: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = transxnet.load_model(folder).eval()
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(folder)
    batch = images(2, 3, 80, 70)
    assert torch.equal(wrapped(pixel_values=batch).logits, model(batch))
    assert wrapped.config.id2label == dict(enumerate(NAMES))
    features = transformers.AutoModel.from_pretrained(folder)(pixel_values=batch)
    assert torch.equal(features.last_hidden_state, model.forward_features(batch))

    Image.effect_noise((90, 130), 80).convert("RGB").save("image.png")
    with Image.open("image.png") as image:
        prepared = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(prepared[0], evaluation_transform(model.pretrained_cfg)(image))
    answers = transformers.pipeline("image-classification", model=str(folder), top_k=6)("image.png")
    assert run("predict", "image.png", "--checkpoint", folder, "--top", "6", "--json") == 0
    ours = json.loads(capsys.readouterr().out)[0]["answers"]
    assert [one["label"] for one in answers] == [one["class"] for one in ours]
    assert [one["score"] for one in answers] == pytest.approx([one["probability"] for one in ours], abs=1e-6)


@pytest.mark.parametrize("names", [NAMES, ["x", "y", "z"], []])
def test_the_trainers_folders_load_back(names: list[str], transformers: Any, folder: Path) -> None:
    classes = len(names) or 3
    other = {"num_labels": classes, "ignore_mismatched_sizes": True} if names is not NAMES else {}
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(folder, **other)
    if names:  # it would save the old names otherwise, which are left out
        wrapped.config.label_names = names
    data = [{"pixel_values": images(1, 3, 64, 96)[0], "labels": index % classes} for index in range(4)]
    settings = transformers.TrainingArguments(
        "run", max_steps=2, save_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True
    )
    transformers.Trainer(model=wrapped, args=settings, train_dataset=data).train()
    saved = Path("run/checkpoint-2")
    loaded = transxnet.load_model(saved)
    assert not same(loaded, nano(**SETTINGS).state_dict())
    assert same(loaded, wrapped.timm_model.state_dict())
    assert loaded.config.img_size == (64, 96) and loaded.num_classes == classes
    assert list(loaded.pretrained_cfg.get("label_names", ())) == names
    assert loaded.pretrained_cfg["crop_pct"] == 0.8
    assert same(timm.create_model(f"local-dir:{saved}", pretrained=True), loaded.state_dict())
    assert transxnet.publish(saved, "out").classes == classes
