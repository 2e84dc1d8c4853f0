"""Answers of the server as JSON."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import transxnet
from helpers.networks import lively_dense, nano
from transxnet.api.preparation import Prepared, area_of
from transxnet.api.results import Segmentation
from transxnet.data.images.reading import FORMATS
from transxnet.data.transforms import evaluation_transform
from transxnet.inference.description import FORMATS as EXPORTED
from transxnet.serve import answers
from transxnet.serve.answers import answer_for, describe

FIXED = {"input_size": (3, 64, 64), "interpolation": "bilinear", "mean": (0, 0, 0), "std": (1, 1, 1)}


def decoded(png: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


@pytest.mark.parametrize("count", [2, 256, 257, 10_000])
def test_a_label_map_keeps_every_class(count: int) -> None:
    labels = torch.randint(0, count, (5, 7))
    labels[0, 0] = count - 1
    image = Prepared("image", torch.zeros(3, 32, 32), (7, 5), (3, 32, 32))
    answer = answer_for(image, Segmentation("image", labels, {"a": 1.0}), None, count)
    found = decoded(answer["label_map"])
    assert found.dtype == (np.uint8 if count <= 256 else np.uint16)
    assert np.array_equal(found, labels.numpy())
    assert (answer["width"], answer["height"]) == (7, 5)


@pytest.mark.parametrize(
    "config",
    [
        {"crop_pct": 1.0},
        {"crop_pct": 0.8},
        {"crop_pct": 0.9, "crop_mode": "squash"},
        {"crop_pct": 0.9, "crop_mode": "border"},
        {"input_size": (3, 64, 96), "crop_pct": 0.8},
        {"input_size": (4, 64, 64), "crop_pct": 0.8},
        {"input_size": (1, 64, 96), "crop_pct": 0.8, "crop_mode": "border"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(120, 80), (81, 200), (64, 64), (6000, 60)], ids=str)
def test_the_area_is_what_the_network_sees(config: dict[str, Any], size: tuple[int, int]) -> None:
    """The transform of an image whose pixels are their own positions has those of the area."""
    config = FIXED | config
    bands, whole = config["input_size"][0], "crop_mode" in config
    width, height = size
    seen = []
    transform = evaluation_transform(config, normalise=False)
    left, top, right, bottom = area_of(transform, size)
    for axis, side in enumerate(size):
        spread = side if whole else min(side, 3 * min(size))  # levels suffice for the middle of a long image
        positions = ((np.arange(side) + 0.5 - side / 2) / spread * 255 + 127.5).clip(0, 255).round()
        levels = np.broadcast_to(positions if axis == 0 else positions[:, None], (height, width)).astype(np.uint8)
        image = Image.fromarray(levels).convert("RGB")
        if bands == 4:
            image.info["transxnet_bands"] = [image.getchannel(0)] * 4
        found = torch.as_tensor(transform(image))[0].numpy().astype(float)
        seen.append((found - 127.5) * spread / 255 + side / 2)
    rows, columns = seen[0].shape
    columns_at = left + (np.arange(columns) + 0.5) * (right - left) / columns
    rows_at = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    inside = np.ix_((rows_at > 1) & (rows_at < height - 1), (columns_at > 1) & (columns_at < width - 1))
    assert seen[0][inside].size >= 64
    pixel = max((right - left) / columns, (bottom - top) / rows)
    for found, side, wanted in ((seen[0], width, columns_at[None]), (seen[1], height, rows_at[:, None])):
        difference = np.abs(found - wanted)[inside]
        assert difference.max() <= 2 * (side if whole else min(side, 3 * min(size))) / 255 + pixel / 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    named = nano()
    vars(named)["pretrained_cfg"]["label_names"] = [f"\udcff{index}" if index else "<b>" for index in range(10)]
    transxnet.save_model(named, folder / "nano.safetensors")
    transxnet.save_model(lively_dense("semantic_fpn"), folder / "semantic_fpn.safetensors")
    return folder


@pytest.mark.parametrize("fuse", [False, True])
def test_a_classifier_is_described_as_it_was_trained(fuse: bool, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "installed", lambda module: not fuse)
    settings: dict[str, Any] = {"checkpoint": files / "nano.safetensors", "fuse": fuse}
    described = describe(transxnet.Predictor(**settings), settings)
    json.dumps(described.model_dump())
    assert (described.name, described.task, described.checkpoint) == (
        "transxnet_nano",
        "classification",
        "nano.safetensors",
    )
    assert described.parameters == sum(one.numel() for one in nano().parameters())
    assert (described.fused, described.runtime) == (fuse, "PyTorch with native kernels" if fuse else "PyTorch")
    assert described.input == {"width": 64, "height": 64}
    assert (described.stages, described.colours) == (4, [])
    assert described.classes[0] == "<b>" and len(described.classes) == 10
    assert described.supports == {"gradcam": not fuse, "features": True}


def test_a_segmenter_is_described_with_its_colours(files: Path) -> None:
    settings: dict[str, Any] = {"checkpoint": files / "semantic_fpn.safetensors", "device": "cpu"}
    described = describe(transxnet.Predictor(**settings), settings)
    assert (described.name, described.task, described.input) == ("transxnet_nano", "segmentation", None)
    assert described.classes == ["a", "b", "c"]
    assert [len(one) for one in described.colours] == [7, 7, 7]
    assert not any(described.supports.values())


def test_types_are_of_formats_that_are_read() -> None:
    Image.init()
    known = {Image.MIME[kind] for kind in FORMATS if kind in Image.MIME}
    assert set(answers.TYPES) <= known | {"image/x-portable-pixmap", "image/x-tga"}
    assert tuple(answers._RUNTIMES) == EXPORTED
