"""timm's description, the configuration and the preprocessing agree, however a network was made or changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.data import resolve_data_config, resolve_model_data_config

import transxnet
from helpers.networks import ONCE, ablation_rows, described_size, nano, nano_weights, save_for_hf, untrained
from transxnet import TransXNet
from transxnet.ablation import Row

TAGGED = timm.list_models("transxnet*", exclude_filters=["*_table*"], include_tags=True)
LABELS = [f"class {index}" for index in range(10)]


def check(model: Any, size: tuple[int, int, int], classes: int) -> None:
    """Every description of a network has these input channels, height and width, and classes."""
    config = model.config
    assert (config.in_chans, *config.img_size) == (model.in_chans, *config.img_size) == size
    assert model.default_cfg is model.pretrained_cfg
    for data in (resolve_data_config(model=model), resolve_model_data_config(model)):
        assert data["input_size"] == size
        assert len(data["mean"]) == len(data["std"]) == size[0]
    assert model.pretrained_cfg["input_size"] == described_size(model) == size
    assert model.pretrained_cfg["pool_size"] == (-(-size[1] // 32), -(-size[2] // 32))
    assert model.pretrained_cfg["num_classes"] == model.num_classes == config.num_classes == classes
    assert len(model.pretrained_cfg.get("label_names", ())) in (0, classes)
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize("name", TAGGED)
def test_descriptions_agree_for_every_tag(name: str) -> None:
    side = 384 if name.endswith("_384") else 224
    check(untrained(name, depths=ONCE), (3, side, side), 1000)


@pytest.mark.parametrize("row", ablation_rows())
def test_descriptions_of_the_ablations_rows_agree(row: Row) -> None:
    check_changes(row.network("nano"))


@pytest.mark.parametrize("name", transxnet.VARIANTS)
def test_descriptions_agree_after_every_change(name: str) -> None:
    check_changes(name)


def check_changes(name: str) -> None:
    model = untrained(name, depths=ONCE, img_size=(96, 64), in_chans=2, num_classes=7)
    check(model, (2, 96, 64), 7)
    model.set_input_size(64)
    check(model, (2, 64, 64), 7)
    model.pretrained_cfg["label_names"] = LABELS[:7]
    model.reset_classifier(7)
    assert model.pretrained_cfg["label_names"] == LABELS[:7]
    model.reset_classifier(4)
    check(model, (2, 64, 64), 4)
    assert "label_names" not in model.pretrained_cfg
    model.reset_classifier(0, "")
    check(model, (2, 64, 64), 0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ours: for one channel, 96 x 64 pixels and ten named classes."""
    model = nano(in_chans=1, img_size=(96, 64))
    model.pretrained_cfg["label_names"] = LABELS
    return transxnet.save_model(model, tmp_path_factory.mktemp("file") / "model.safetensors")


def through_timm(settings: dict[str, Any], **overlay: Any) -> Any:
    return timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay, **settings)


def resized(model: TransXNet) -> TransXNet:
    model.set_input_size((64, 32))
    return model


Way = Callable[[Path], Any]
WAYS: dict[str, tuple[Way, tuple[int, int, int], int]] = {
    "the class": (lambda _: TransXNet(transxnet.VARIANTS["transxnet_nano"]), (3, 224, 224), 1000),
    "a size in the overlay": (
        lambda _: timm.create_model("transxnet_nano", pretrained_cfg_overlay={"input_size": (3, 64, 96)}),
        (3, 64, 96),
        1000,
    ),
    "a state dict": (lambda _: transxnet.create_model("transxnet_nano", checkpoint=nano_weights()), (3, 64, 64), 10),
    "a state dict at a size": (
        lambda _: transxnet.create_model("transxnet_nano", checkpoint=nano_weights(), img_size=96, num_classes=3),
        (3, 96, 96),
        3,
    ),
    "a state dict, a size in the overlay": (
        lambda _: through_timm({}, state_dict=nano_weights(), input_size=(3, 32, 64)),
        (3, 32, 64),
        10,
    ),
    "a file": (transxnet.load_model, (1, 96, 64), 10),
    "a file at a size": (lambda path: transxnet.load_model(path, img_size=64, in_chans=3), (3, 64, 64), 10),
    "a file with new classes": (lambda path: transxnet.load_model(path, num_classes=3), (1, 96, 64), 3),
    "a file through timm": (lambda path: through_timm({"img_size": 64}, file=str(path)), (1, 64, 64), 10),
    "a file, then a size": (lambda path: resized(transxnet.load_model(path)), (1, 64, 32), 10),
    "a file of a changed network": (
        lambda path: transxnet.load_model(
            transxnet.save_model(resized(transxnet.load_model(path)), path.with_name("changed.safetensors"))
        ),
        (1, 64, 32),
        10,
    ),
    "a copy, then a size": (lambda path: resized(copy.deepcopy(transxnet.load_model(path))), (1, 64, 32), 10),
    "a pickle": (lambda path: pickle.loads(pickle.dumps(transxnet.load_model(path))), (1, 96, 64), 10),
    "fused": (lambda path: transxnet.fuse(transxnet.load_model(path).eval()), (1, 96, 64), 10),
}


@pytest.mark.parametrize("way", WAYS)
def test_descriptions_agree_after_every_way_of_making_a_network(way: str, file: Path) -> None:
    make, size, classes = WAYS[way]
    model = make(file)
    check(model, size, classes)
    kept = classes == 10 and ("file" in way or way in ("a copy, then a size", "a pickle", "fused"))
    assert list(model.pretrained_cfg.get("label_names", ())) == (LABELS if kept else [])


@pytest.mark.parametrize("feature_cls", [None, "getter"])
def test_the_description_of_a_feature_extractor_follows_the_size(feature_cls: str | None, file: Path) -> None:
    settings = {"features_only": True, "feature_cls": feature_cls}
    for model, size in (
        (timm.create_model("transxnet_nano", img_size=(96, 64), **settings), (3, 96, 64)),  # type: ignore[arg-type]
        (through_timm(settings, file=str(file)), (1, 96, 64)),
        (through_timm(settings, file=str(file), input_size=(1, 64, 64)), (1, 64, 64)),
    ):
        features: Any = model
        assert features.default_cfg is features.pretrained_cfg and "state_dict" not in features.pretrained_cfg
        assert resolve_data_config(model=features)["input_size"] == size
        assert described_size(features) == size


def test_a_fine_tuned_network_is_saved_with_its_own_size(tmp_path: Path) -> None:
    """Not with that of the weights that it started from."""
    start = transxnet.save_model(nano(img_size=32), tmp_path / "start.safetensors")
    tuned = transxnet.create_model("transxnet_nano", checkpoint=start, img_size=96)
    saved = transxnet.load_model(transxnet.save_model(tuned, tmp_path / "tuned.safetensors"))
    check(saved, (3, 96, 96), 10)


# Settings that are None


@pytest.mark.parametrize("value", [None, "none"])
def test_layer_scales_are_left_out(value: Any) -> None:
    model = transxnet.create_model("transxnet_nano", layer_scale_init=value, depths=ONCE)
    assert model.config.layer_scale_init is None
    assert not any(".scale1." in name for name in model.state_dict())
    assert transxnet.TransXNetConfig.from_dict(model.config.to_dict()) == model.config
    backbone = transxnet.create_backbone("transxnet_nano", layer_scale_init=value)
    assert backbone.config.layer_scale_init is None


def test_layer_scales_are_left_out_through_timm(tmp_path: Path) -> None:
    """timm drops settings whose value is None, but keeps "none"."""
    model: Any = timm.create_model("transxnet_nano", layer_scale_init="none", img_size=32)
    assert model.config.layer_scale_init is None
    save_for_hf(model, tmp_path, True)
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).config == model.config


def test_none_stands_for_the_default_of_other_settings(file: Path) -> None:
    unset: dict[str, Any] = dict.fromkeys(transxnet.VARIANTS["transxnet_nano"].to_dict())
    del unset["layer_scale_init"]
    parts = dict.fromkeys(("token_mixer_settings", "local_operator_settings", "ffn_settings"))
    model = transxnet.create_model("transxnet_nano", **unset, **parts)
    assert model.config == transxnet.VARIANTS["transxnet_nano"]
    assert transxnet.create_backbone("transxnet_nano", **unset).config == model.config
    assert transxnet.load_model(file, img_size=None, drop_path_rate=None).config.img_size == (96, 64)


@pytest.mark.parametrize("name", ["drop_rate", "ffn_drop_rate", "drop_path_rate", "layer_scale_init"])
def test_zero_is_a_value(name: str, tmp_path: Path) -> None:
    file = transxnet.save_model(nano(**{name: 0.25}), tmp_path / "model.safetensors")
    model = transxnet.load_model(file, **{name: 0})
    assert getattr(model.config, name) == 0
    assert any(".scale1." in entry for entry in model.state_dict())
    with pytest.raises(transxnet.ConfigError, match=f"{name} must be"):
        transxnet.load_model(file, **{name: False})
