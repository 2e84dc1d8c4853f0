"""Folders in the Hub's form that are saved: timm's and this package's, of any network, load as the same network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import transxnet
from helpers.commands import paint, run
from helpers.networks import images, lively, lively_dense, nano, same, save_for_hf
from transxnet import CheckpointError, ConfigError
from transxnet.api.results import Classification, Segmentation

ROWS = timm.list_models("transxnet_nano_table*")
SHOWN = [next(name for name in ROWS if f"_table{table}_" in name) for table in (5, 6)]
NAMES = ["a: b", "|", "<script>", "two\nlines", "\U0001f600", "\udcff", "", "猫", "'", '"']
CFG: dict[str, Any] = {
    "label_names": NAMES, "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear", "license": "cc-by-4.0"
}  # fmt: skip
SETTINGS: list[dict[str, Any]] = [
    {"in_chans": 2, "num_classes": 3, "img_size": (96, 64), "global_pool": "catavgmax", "depths": (1, 1, 1, 1)},
    {"num_classes": 0, "global_pool": "", "layer_scale_init": "none", "depths": (1, 1, 1, 1),
     "position_bias_resize": "geometric"},
]  # fmt: skip
"""Settings that differ from the registered network's. timm leaves out rates of dropout, which matter to training."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for downloads, laid out as huggingface_hub's cache: names that link to files named by digests."""

    def download(repo: str, name: str, **settings: Any) -> str:
        assert repo == "user/name"
        link = tmp_path / "cache" / name
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            blob = tmp_path / f"blob-{name}"
            os.link(tmp_path / "folder" / name, blob)
            link.symlink_to(blob)
        return str(link)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return tmp_path / "folder"


def timms(model: Any, folder: Path) -> None:
    save_for_hf(model, folder)


def check_all_ways(model: Any, folder: Path) -> None:
    """Load a folder in every way, and compare configuration, weights and outputs."""
    batch = images(1, model.in_chans, *model.config.img_size)
    expected = model(batch)
    for loaded in (
        timm.create_model(f"local-dir:{folder}", pretrained=True),
        timm.create_model("hf-hub:user/name", pretrained=True),
        transxnet.load_model(folder),
    ):
        network: Any = loaded.eval()
        assert network.config == model.config
        assert same(network, model.state_dict())
        assert torch.equal(network(batch), expected)
    untrained: Any = timm.create_model("hf-hub:user/name")
    assert untrained.config == model.config
    assert [one.shape for one in untrained(batch)] == [one.shape for one in expected]


@torch.inference_mode()
@pytest.mark.parametrize("save", [timms, transxnet.save_folder])
@pytest.mark.parametrize("settings", SETTINGS)
def test_any_setting_comes_back(settings: dict[str, Any], save: Any, hub: Path) -> None:
    model = nano(**settings)
    save(model, hub)
    check_all_ways(model, hub)


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in SHOWN)) for name in (*ROWS, "transxnet_tiny")]
)
def test_rows_of_the_ablations_come_back(name: str, hub: Path) -> None:
    model = lively(transxnet.create_model(name, img_size=32, num_classes=3, depths=(1, 1, 1, 1))).eval()
    transxnet.save_folder(model, hub)
    loaded: Any = timm.create_model(f"local-dir:{hub}", pretrained=True)
    assert loaded.config == model.config and same(loaded, model.state_dict())


@torch.inference_mode()
def test_features_and_other_classes_are_taken_from_a_folder(hub: Path) -> None:
    model = nano()
    transxnet.save_folder(model, hub)
    batch = images(1, 3, 64, 64)
    features: Any = timm.create_model("hf-hub:user/name", pretrained=True, features_only=True, out_indices=(1, 3))
    expected: Any = model.forward_intermediates(batch, [1, 3], intermediates_only=True)
    assert all(torch.equal(*pair) for pair in zip(features.eval()(batch), expected, strict=True))
    pooled: Any = timm.create_model("hf-hub:user/name", pretrained=True, num_classes=0)
    assert torch.equal(pooled.eval()(batch), model.forward_head(model.forward_features(batch), pre_logits=True))
    assert timm.create_model("hf-hub:user/name", pretrained=True, num_classes=4)(batch).shape == (1, 4)


def test_the_description_comes_back(hub: Path) -> None:
    model = nano()
    model.pretrained_cfg |= CFG
    transxnet.save_folder(model, hub, license="mit")
    content = json.loads((hub / "config.json").read_text())
    assert content["label_names"] == NAMES  # where transformers looks for them
    assert "num_classes" not in content["model_args"]  # which transformers gives itself
    for loaded in (
        timm.create_model(f"local-dir:{hub}", pretrained=True),
        timm.create_model("hf-hub:user/name", pretrained=True),
        transxnet.load_model(hub),
    ):
        cfg: Any = loaded.pretrained_cfg
        assert {name: cfg[name] for name in CFG} == CFG | {"license": "mit"}
        assert [cfg[name] for name in ("mean", "std")] == [model.pretrained_cfg[name] for name in ("mean", "std")]


def test_no_licence_is_taken_from_the_released_weights(tmp_path: Path) -> None:
    """Those of the Tiny network are Apache-2.0, and timm's description of every Tiny network says so."""
    tiny = transxnet.create_model("transxnet_tiny", img_size=32, depths=(1, 1, 1, 1))
    assert tiny.pretrained_cfg["license"] == "apache-2.0"
    loaded = transxnet.load_model(transxnet.save_folder(tiny, tmp_path))
    assert not {"license", "origin_url"} & loaded.pretrained_cfg.keys()


def test_a_fused_network_is_refused(hub: Path) -> None:
    fused = transxnet.fuse(nano())
    with pytest.raises(ConfigError, match="a fused network cannot be saved"):
        transxnet.save_folder(fused, hub)
    timm.models.save_for_hf(fused, str(hub))  # which knows no such thing
    with pytest.raises(CheckpointError, match="metadata and tensors are not of the same network") as raised:
        timm.create_model(f"local-dir:{hub}", pretrained=True)
    assert "\n" not in str(raised.value)


@torch.inference_mode()
def test_a_network_of_a_configuration_is_saved_by_the_name_of_its_sizes(tmp_path: Path) -> None:
    config = transxnet.VARIANTS["transxnet_nano"].override(img_size=32, num_classes=3, drop_path_rate=0.0)
    model = lively(transxnet.TransXNet(config)).eval()
    folder = transxnet.save_folder(model, tmp_path / "folder")
    batch = images(1, 3, 32, 32)
    for loaded in (transxnet.load_model(folder), timm.create_model(f"local-dir:{folder}", pretrained=True)):
        network: Any = loaded.eval()
        assert network.config == config and torch.equal(network(batch), model(batch))
    assert model.pretrained_cfg.get("architecture") is None


@pytest.mark.parametrize(("name", "message"), [("", "no registered network"), ("my_net", "'my_net' is no network")])
def test_a_network_without_a_registered_name_is_refused(name: str, message: str, tmp_path: Path) -> None:
    config = transxnet.VARIANTS["transxnet_nano"].override(img_size=32, depths=(1, 1, 1, 1))
    model = transxnet.TransXNet(config)
    model.pretrained_cfg |= {"architecture": name} if name else {}
    with pytest.raises(ConfigError, match=message):
        transxnet.save_folder(model, tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    model.pretrained_cfg["architecture"] = "transxnet_nano"
    assert transxnet.load_model(transxnet.save_folder(model, tmp_path / "folder")).config == config


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("moves", range(4))
def test_files_are_replaced_together(moves: int, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a move fails, the old files are back; a process that ends there leaves no new description of old weights."""
    old, new = (nano(img_size=32, depths=(1, 1, 1, 1), num_classes=count) for count in (2, 3))
    folder = transxnet.save_folder(old, tmp_path / "folder")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename, calls = Path.rename, iter(range(100))

    def failing(path: Path, target: Path) -> Path:
        call = next(calls)
        if call == moves or (ended and call > moves):
            raise OSError("it cannot be moved")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="it cannot be moved"):
        transxnet.save_folder(new, folder)
    if not ended or moves == 0:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        return
    with pytest.raises(CheckpointError, match="does not exist"):
        transxnet.load_model(folder)
    assert before["model.safetensors"] in [path.read_bytes() for path in folder.glob(".transxnet-*/old/*")]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ("weights.safetensors", "would be loaded instead of model.safetensors: give another folder"),
        ("config.json", "config.json is a folder, not a file that can be replaced: rename or remove it"),
        ("", "folder is a file"),
    ],
)
def test_a_folder_that_cannot_be_written_is_left_alone(held: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / held).mkdir(parents=True) if held else folder.touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        transxnet.save_folder(nano(img_size=32, depths=(1, 1, 1, 1)), folder)
    assert sorted(tmp_path.rglob("*")) == before


# Detectors and segmenters


@pytest.fixture(params=["retinanet", "mask_rcnn", "semantic_fpn"])
def dense(request: pytest.FixtureRequest) -> Any:
    return lively_dense(request.param, drop_path_rate=0.1, img_size=(96, 64))


def bare(folder: Path) -> Path:
    """The folder with weights as another library writes them, without metadata."""
    import safetensors.torch

    path = folder / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    return folder


@pytest.mark.parametrize("metadata", [True, False])
def test_a_dense_network_comes_back(dense: Any, metadata: bool, tmp_path: Path) -> None:
    folder = transxnet.save_folder(dense, tmp_path / "folder", license="mit")
    content = json.loads((folder / "config.json").read_text())
    assert (content["architecture"], content["backbone"], content["license"]) == (dense.kind, "transxnet_nano", "mit")
    assert content["preprocessing"]["short"] == 80 and len(content["preprocessing"]["mean"]) == 3
    predictor = transxnet.Predictor(folder if metadata else bare(folder), min_score=0.0)
    loaded = predictor.network
    assert loaded.head_description == dense.head_description and loaded.config == dense.config
    assert same(loaded, dense.state_dict())
    assert predictor.class_names == ("a", "b", "c")


def test_commands_take_a_dense_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = transxnet.save_folder(lively_dense("semantic_fpn"), tmp_path / "folder")
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "a.png")
    assert run("predict", tmp_path / "a.png", "--checkpoint", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["shares"].keys() <= {"a", "b", "c"}
    found = transxnet.Predictor(folder)(tmp_path / "a.png")
    assert isinstance(found, Segmentation)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("backbone",), "transxnet_tiny", "has channels"),
        (("backbone",), "resnet50", "'resnet50' is no network of this package"),
        (("backbone_args", "depth"), 3, "did you mean 'depths'"),
        (("architecture",), "yolo", "holds a 'yolo'"),
        (("num_classes",), 4, "label_names must be a list of 0 or 4 values"),
        (("label_names",), ["a"], "label_names"),
        (("head", "proposals"), "all", "proposals must be"),
        (("preprocessing", "short"), 10**9, "short must be"),
        (("preprocessing", "mean"), [0.5, 0.5, 0.5], r"its mean is \[0.5, 0.5, 0.5\], but a retinanet has"),
        (("head",), [], "head must be an object"),
    ],
)
def test_a_malformed_description_of_a_detector_is_one_line(
    keys: tuple[str, ...], value: Any, message: str, detector: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(detector / "model.safetensors")
    content = json.loads((detector / "config.json").read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as raised:
        transxnet.load_detector(folder)
    assert str(folder / "config.json") in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare(transxnet.save_folder(lively_dense("retinanet"), tmp_path_factory.mktemp("detector")))


def test_metadata_and_description_of_a_detector_must_agree(tmp_path: Path) -> None:
    folder = transxnet.save_folder(lively_dense("retinanet"), tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"label_names": ["a", "b", "d"]}))
    with pytest.raises(CheckpointError, match="contradict each other: label_names"):
        transxnet.load_detector(folder)


def test_others_take_no_detector_for_a_classifier(detector: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Unknown model \(retinanet\)"):
        timm.create_model(f"local-dir:{detector}", pretrained=True)
    with pytest.raises(CheckpointError, match="holds a detector or a segmenter"):
        transxnet.create_model("transxnet_nano", checkpoint=detector)


def test_commands_take_a_classifiers_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nano(num_classes=2)
    model.pretrained_cfg["label_names"] = ["leaf", "rose"]
    folder = transxnet.save_folder(model, tmp_path / "folder")
    paint(tmp_path / "photos", 1)
    found = transxnet.Predictor(folder)(tmp_path / "photos/leaf/0.png")
    assert isinstance(found, Classification) and set(found.classes) == {"leaf", "rose"}
    assert run("eval", "--data", tmp_path / "photos", "--checkpoint", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
