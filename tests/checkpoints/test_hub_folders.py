"""Folders from the Hugging Face Hub: ``config.json`` beside the weights says what the network is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import transxnet
from helpers.commands import error_line, run
from helpers.networks import images, nano, same, save_for_hf
from transxnet import CheckpointError

NAMES = [f"kind {index}" for index in range(10)]
SETTINGS: dict[str, Any] = {"position_bias_resize": "geometric", "attention_shares": (0.25, 0.5, 0.75, 0.5)}
CFG = {"label_names": NAMES, "crop_pct": 0.8, "crop_mode": "squash", "mean": (0.5,) * 3, "std": (0.3,) * 3,
       "interpolation": "bilinear"}  # fmt: skip


def folder_of(model: Any, path: Path, safe: Any = True) -> Path:
    """The folder that timm writes for the Hub."""
    save_for_hf(model, path, safe)
    return path


def network() -> transxnet.TransXNet:
    model = nano(**SETTINGS)
    model.pretrained_cfg |= CFG
    return model


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("way", ["the folder", "the file", "timm"])
def test_config_json_is_honoured(way: str, safe: bool, tmp_path: Path) -> None:
    model = network()
    folder = folder_of(model, tmp_path / "hub", safe)
    file = folder / ("model.safetensors" if safe else "pytorch_model.bin")
    loaded: Any
    if way == "timm":
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        loaded = transxnet.load_model(folder if way == "the folder" else file)
    assert loaded.config == model.config
    assert same(loaded, model.state_dict())
    assert {name: plain(loaded.pretrained_cfg[name]) for name in CFG} == plain(CFG)
    with torch.inference_mode():
        batch = images(1, 3, 75, 90)
        assert torch.equal(loaded.eval()(batch), model(batch))


def test_commands_honour_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    folder = folder_of(model, tmp_path / "hub")
    own = transxnet.save_model(model, tmp_path / "own.safetensors")
    picture = tmp_path / "a.png"
    Image.effect_noise((90, 70), 80).convert("RGB").save(picture)
    answers = []
    for checkpoint in (folder, own):
        assert run("predict", picture, "--checkpoint", checkpoint, "--json") == 0
        answers.append(json.loads(capsys.readouterr().out)[0]["answers"])
    assert answers[0] == answers[1]
    assert answers[0][0]["class"] in NAMES
    assert run("convert", folder, tmp_path / "converted.safetensors") == 0
    assert (tmp_path / "converted.safetensors").read_bytes() == own.read_bytes()


def one_level(about: dict[str, Any]) -> None:
    """The form of timm's older files."""
    cfg = about.pop("pretrained_cfg") | {"architecture": about.pop("architecture"), "labels": NAMES}
    arguments = about["model_args"]
    about.clear()
    about |= cfg | {"model_args": arguments}
    del about["label_names"]


def named_by_id(about: dict[str, Any]) -> None:
    """The form of the transformers library."""
    about.pop("label_names", None)
    about["pretrained_cfg"].pop("label_names", None)
    about["id2label"] = {str(index): name for index, name in enumerate(NAMES)}


def tagged(about: dict[str, Any]) -> None:
    about["architecture"] += ".untrained"


def without_sizes(about: dict[str, Any]) -> None:
    for name in ("img_size", "in_chans", "num_classes"):
        del about["model_args"][name]
    about["pretrained_cfg"].pop("input_size")


@pytest.mark.parametrize("change", [one_level, named_by_id, tagged, without_sizes])
def test_other_forms_are_read(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    model = network()
    rewrite(folder_of(model, tmp_path / "hub"), change)
    loaded = transxnet.load_model(tmp_path / "hub")
    assert loaded.config == model.config
    assert list(loaded.pretrained_cfg["label_names"]) == NAMES
    assert loaded.pretrained_cfg["input_size"] == (3, 64, 64)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "config.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(network(), tmp_path_factory.mktemp("hub"))


def sets(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(about: dict[str, Any]) -> None:
        for key in keys[:-1]:
            about = about.setdefault(key, {})
        about[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sets("architecture", value="resnet50"), "'resnet50' is no network of this package"),
        (sets("architecture", value=None), "architecture must be the name of a network, not null"),
        (sets("architecture", value="transxnet_tiny"), r"has depths .* but its tensors have"),
        (sets("num_classes", value=7), "num_classes is 7 in the top level and 10 in pretrained_cfg"),
        (sets("model_args", "num_classes", value="ten"), "num_classes"),
        (sets("model_args", "attention_share", value=0.5), "did you mean 'attention_shares'"),
        (sets("model_args", "attention_shares", value=0.5), "attention_shares"),
        (sets("model_args", "img_size", value=10**9), "img_size must be"),
        (sets("model_args", value=[1]), "model_args must be an object"),
        (sets("pretrained_cfg", value=3), "pretrained_cfg must be an object"),
        (sets("pretrained_cfg", "crop_pct", value="all"), "crop_pct must be"),
        (sets("pretrained_cfg", "input_size", value=[3]), "input_size must be a list of 3 values"),
        (sets("label_names", value=["a", "b"]), "label_names must be a list of 0 or 10 values"),
        (sets("label_names", value=[1] * 10), r"label_names\[0\] must be text"),
        (None, "it is not a JSON object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (b"\xff\xfe{", "cannot be read"),
    ],
)  # fmt: skip
def test_a_malformed_config_json_is_one_line(
    hub: Path, change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(hub / "model.safetensors")
    (folder / "config.json").write_bytes((hub / "config.json").read_bytes())
    if callable(change):
        rewrite(folder, change)
    else:
        text = b"[]" if change is None else change if isinstance(change, bytes) else change.encode()
        (folder / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        transxnet.load_model(folder)
    assert str(folder / "config.json") in str(caught.value)
    (tmp_path / "empty").mkdir()
    command = ("eval", "--data", "digits", "--checkpoint", str(folder))
    assert "config.json" in error_line(command, tmp_path / "empty", capsys)


def test_metadata_in_the_weights_must_agree(tmp_path: Path) -> None:
    model = network()
    folder = folder_of(model, tmp_path / "hub")
    transxnet.save_model(model, folder / "model.safetensors")
    assert transxnet.load_model(folder).config == model.config
    rewrite(folder, sets("pretrained_cfg", "crop_pct", value=0.9))
    message = "model.safetensors and .*config.json contradict each other: crop_pct is 0.8 in the one and 0.9 in"
    with pytest.raises(CheckpointError, match=message):
        transxnet.load_model(folder)


def test_config_json_of_another_packages_network_is_left_alone(tmp_path: Path) -> None:
    """The weights of timm's networks are read by commands that compare them with ours."""
    from transxnet.checkpoints.reading import read_checkpoint

    weights = {"fc.weight": torch.ones(2, 2)}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    assert read_checkpoint(tmp_path).state_dict.keys() == weights.keys()
