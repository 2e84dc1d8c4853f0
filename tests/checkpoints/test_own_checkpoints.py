"""Our own files: round trips and atomic writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
import timm
import torch

import transxnet
from helpers.forked import python
from helpers.networks import images, nano, same, save_for_hf
from transxnet.files import replacing


@pytest.mark.parametrize("load", ["load_model", "create_model", "run folder", "timm"])
def test_round_trip(tmp_path: Path, load: str) -> None:
    settings: dict[str, Any] = {"attention_shares": (0.25, 0.5, 0.75, 0.5), "position_bias_resize": "geometric"}
    model = nano(**settings, in_chans=1, img_size=(96, 64), drop_path_rate=0.1)
    described = {"label_names": [f"digit {n}" for n in range(10)], "mean": (0.25,), "std": (0.5,), "crop_pct": 1.0}
    vars(model)["pretrained_cfg"].update(described)
    path = transxnet.save_model(model, tmp_path / "run" / "weights.safetensors")
    if load == "load_model":
        loaded: Any = transxnet.load_model(path)
    elif load == "create_model":
        loaded = transxnet.create_model("transxnet_nano", checkpoint=path)
    elif load == "run folder":
        loaded = transxnet.load_model(path.parent)
    else:
        overlay = {"file": str(path)}
        loaded = timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    assert loaded.config == model.config
    assert {name: plain(loaded.pretrained_cfg[name]) for name in described} == plain(described)
    batch = images(2, 3, 75, 90)[:, :1]
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(batch), model(batch))


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return json.loads(json.dumps(value))


def test_settings_override_the_file(tmp_path: Path) -> None:
    path = transxnet.save_model(nano(img_size=96), tmp_path / "model.safetensors")
    model = transxnet.load_model(path, num_classes=4, img_size=64, drop_path_rate=0.2)
    assert (model.config.num_classes, model.config.img_size, model.config.drop_path_rate) == (4, (64, 64), 0.2)
    assert model.head.fc.weight.shape == (4, 160)


def test_a_changed_network_is_saved_as_it_is(tmp_path: Path) -> None:
    model = nano()
    model.reset_classifier(3)
    model.set_input_size(96)
    loaded = transxnet.load_model(transxnet.save_model(model, tmp_path / "model.safetensors")).eval()
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(images(1, 3, 96, 96)), model(images(1, 3, 96, 96)))


def test_class_names_of_a_replaced_head_are_not_saved(tmp_path: Path) -> None:
    model = nano()
    vars(model)["pretrained_cfg"]["label_names"] = [f"digit {n}" for n in range(10)]
    model.reset_classifier(3)
    loaded: Any = transxnet.load_model(transxnet.save_model(model, tmp_path / "model.safetensors"))
    assert not loaded.pretrained_cfg.get("label_names")


def test_a_network_without_classifier_is_saved(tmp_path: Path) -> None:
    model = nano()
    model.reset_classifier(0)
    loaded = transxnet.load_model(transxnet.save_model(model, tmp_path / "model.safetensors")).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(images(1, 3, 64, 64)), model(images(1, 3, 64, 64)))


def test_timms_own_export_is_read_back(tmp_path: Path) -> None:
    model = nano(img_size=224)
    save_for_hf(model, tmp_path / "export", "both")
    loaded: Any = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    assert same(loaded, model.state_dict())


_SAVE = """
import torch, transxnet
torch.manual_seed(0)
model = transxnet.create_model("transxnet_nano", img_size=64, num_classes=2)
model.pretrained_cfg.update(label_names=["a", "b"], crop_mode="center")
transxnet.save_model(model, folder / "classifier.safetensors")
dense = {"backbone": "transxnet_nano", "pyramid_channels": 8, "num_classes": 2, "img_size": 64}
transxnet.save_model(transxnet.create_detector("retinanet", **dense), folder / "detector.safetensors")
transxnet.save_model(transxnet.create_segmenter(**dense), folder / "segmenter.safetensors")
"""


def test_equal_networks_make_equal_files(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    program = f"from pathlib import Path\nprint(hash('a'))\nfolder = Path({str(there)!r}){_SAVE}"
    ended = python(program)
    assert ended.status == 0, ended
    assert int(ended.out) != hash("a") or "PYTHONHASHSEED" in os.environ  # sets have another order there
    exec(_SAVE, {"folder": here})
    names = sorted(path.name for path in here.iterdir())
    assert len(names) == 3
    for name in names:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_a_written_file_is_any_safetensors_file(tmp_path: Path) -> None:
    model = nano()
    path = transxnet.save_model(model, tmp_path / "model.safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0  # values are aligned
    assert list(json.loads(content[8 : 8 + length])["__metadata__"]) == ["format", "transxnet"]
    with safetensors.safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict())
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in model.state_dict().items())


def test_invalid_metadata_is_not_written(tmp_path: Path) -> None:
    model = nano()
    vars(model)["pretrained_cfg"]["interpolation"] = "newest"
    with pytest.raises(transxnet.ConfigError, match="interpolation must be one of nearest"):
        transxnet.save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(transxnet.ConfigError, match="only classifiers, detectors and segmenters can be saved"):
        transxnet.save_model(transxnet.create_backbone("transxnet_nano"), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_saving_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException) -> None:
    path = transxnet.save_model(nano(), tmp_path / "model.safetensors")
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(type(error)):
        transxnet.save_model(nano(num_classes=3), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_file_is_not_replaced_by_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
