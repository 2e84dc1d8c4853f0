"""Reading released files from disk and from URLs, in every layout."""

from __future__ import annotations

import argparse
import itertools
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import transxnet
from helpers.networks import Released, holds, images, nano, nano_weights, released_tensor, same
from transxnet import CheckpointError
from transxnet.checkpoints.released import rename


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is removed after each test, for large files."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


# Released files


@pytest.mark.parametrize(
    "variant", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("small", "base"))]
)
def test_released_classifiers(released: Released, folder: Path, variant: str) -> None:
    file = released(variant)
    path = folder / f"transx-{variant[0]}.pth.tar"
    torch.save({"epoch": 299, "args": argparse.Namespace(lr=2e-3), "state_dict": file}, path)
    model = transxnet.load_model(path)
    assert model.config == transxnet.VARIANTS[f"transxnet_{variant}"]
    assert model.num_classes == 1000
    assert holds(model, file)


def at_384(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same file with position biases stored for 384 x 384 pixels."""
    sizes = {stage: ((96 // 2**stage) ** 2, 144) for stage in range(4)}
    return {
        name: released_tensor(name, (1, tensor.shape[1], *sizes[int(name[-1])])) if "relative_pos" in name else tensor
        for name, tensor in file.items()
    }


def test_biases_of_another_size_are_adopted(released: Released) -> None:
    file = at_384(released("base"))
    model = transxnet.create_model("transxnet_base.in1k_384", checkpoint=file)
    assert model.config.img_size == (384, 384)
    assert holds(model, file)


def test_biases_are_resized_to_a_requested_size(released: Released) -> None:
    file = at_384(released("tiny"))
    asked = transxnet.create_model("transxnet_tiny", checkpoint=file, img_size=224).eval()
    adopted = transxnet.create_model("transxnet_tiny", checkpoint=file).eval()
    assert asked.config.img_size == (224, 224)
    assert asked.state_dict()["stages.0.position_bias.table"].shape == (1, 1, 3136, 49)
    assert holds(asked, file, without=("relative_pos_enc",))
    with torch.inference_mode():
        batch = images(1, 3, 224, 224)
        assert torch.equal(asked(batch), adopted(batch))


def test_biases_that_fit_no_square_image() -> None:
    oblong = nano(img_size=(96, 64)).state_dict()
    with pytest.raises(CheckpointError, match="fit no square image; create the network with the img_size"):
        transxnet.create_model("transxnet_nano", checkpoint=oblong)
    model = transxnet.create_model("transxnet_nano", checkpoint=oblong, img_size=(96, 64))
    assert same(model, oblong)


LAYOUTS = list(itertools.product((None, "state_dict", "model", "model_ema", "state_dict_ema"),
                                 ("", "module.", "_orig_mod.module.")))  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "prefix", "way"),
    [(*each, "path") for each in LAYOUTS] + [("state_dict", "module.", way) for way in ("Path", "state dict", "timm")],
)
def test_layouts(layout_files: dict[Any, Path], layout: str | None, prefix: str, way: str) -> None:
    path = layout_files[layout, prefix]
    if way == "timm":
        overlay = {"file": str(path)}
        model: Any = timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    else:
        checkpoint: Any = path
        if way == "path":
            checkpoint = str(path)
        elif way == "state dict":
            checkpoint = torch.load(path, weights_only=False)
        model = transxnet.create_model("transxnet_nano", checkpoint=checkpoint)
    assert same(model, nano_weights())


@pytest.fixture(scope="module")
def layout_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    files: dict[Any, Path] = {}
    folder = tmp_path_factory.mktemp("layouts")
    for layout, prefix in LAYOUTS:
        weights: Any = {prefix + name: tensor for name, tensor in nano_weights().items()}
        if layout:
            weights = {"args": argparse.Namespace(lr=2e-3), "epoch": 1, layout: weights}
        files[layout, prefix] = folder / f"{len(files)}.pth.tar"
        torch.save(weights, files[layout, prefix])
    return files


def test_averaged_weights_are_preferred() -> None:
    plain, averaged = nano_weights(), {name: tensor + 1 for name, tensor in nano_weights().items()}
    both = {"state_dict": plain, "state_dict_ema": averaged}
    model = transxnet.create_model("transxnet_nano", checkpoint=both)
    assert same(model, averaged)


def test_a_given_state_dict_is_unchanged(released: Released) -> None:
    file = released("tiny")
    names = list(file)
    transxnet.create_model("transxnet_tiny", checkpoint=file, num_classes=10)
    assert list(file) == names


def test_timm_features_from_a_released_file(released: Released, tmp_path: Path) -> None:
    file = released("tiny")
    torch.save(file, tmp_path / "transx-t.pth.tar")
    overlay = {"file": str(tmp_path / "transx-t.pth.tar")}
    features: Any = timm.create_model(
        "transxnet_tiny", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
    )
    ours = features.state_dict()
    for name, tensor in file.items():
        if not name.startswith("classifier."):
            assert torch.equal(ours[rename(name).replace("stages.", "stages_", 1)].flatten(), tensor.flatten()), name


# Other classes, other channels


def test_another_number_of_classes_starts_a_new_head(released: Released) -> None:
    file = released("tiny")
    model = transxnet.create_model("transxnet_tiny", checkpoint=file, num_classes=10)
    assert model.get_classifier().weight.shape == (10, 448)
    assert 0.018 < model.head.fc.weight.std() < 0.022
    assert holds(model, file, without=("classifier.2",))


def test_a_file_of_ten_classes_makes_a_model_of_ten_classes(tmp_path: Path) -> None:
    weights = nano_weights()
    torch.save(weights, tmp_path / "digits.pth")
    model = transxnet.create_model("transxnet_nano", checkpoint=tmp_path / "digits.pth")
    assert model.num_classes == model.config.num_classes == 10
    assert torch.equal(model.head.fc.weight, weights["head.fc.weight"])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_file_without_head_serves_as_a_start(num_classes: int) -> None:
    weights = {name: tensor for name, tensor in nano_weights().items() if not name.startswith("head.")}
    model = transxnet.create_model("transxnet_nano", checkpoint=weights, num_classes=num_classes)
    assert model.num_classes == num_classes
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_input_channels_are_adapted(released: Released) -> None:
    file = released("tiny")
    model = transxnet.create_model("transxnet_tiny", checkpoint=file, in_chans=1)
    colour = file["patch_embed.proj.conv.weight"]
    torch.testing.assert_close(model.stem.conv.weight.detach(), colour.sum(1, keepdim=True))
    assert holds(model, file, without=("patch_embed.proj.conv",))


def test_input_channels_follow_the_file() -> None:
    weights = nano(in_chans=1).state_dict()
    model = transxnet.create_model("transxnet_nano", checkpoint=weights)
    assert model.config.in_chans == 1
    assert torch.equal(model.stem.conv.weight, weights["stem.conv.weight"])


def test_a_classifier_for_two_poolings_is_loaded() -> None:
    weights = nano(global_pool="catavgmax").state_dict()
    model = transxnet.create_model("transxnet_nano", checkpoint=weights, global_pool="catavgmax")
    assert torch.equal(model.head.fc.weight, weights["head.fc.weight"])
    bare = transxnet.create_model("transxnet_nano", checkpoint=weights, num_classes=3)
    assert bare.head.fc.weight.shape == (3, 160)
    with pytest.raises(CheckpointError, match=r"of another shape: head\.fc\.weight \(10, 320\) for \(10, 160\)"):
        transxnet.create_model("transxnet_nano", checkpoint=weights)


def test_a_file_without_head_needs_a_number_of_classes() -> None:
    weights = {name: tensor for name, tensor in nano_weights().items() if not name.startswith("head.")}
    with pytest.raises(CheckpointError, match="holds no classifier; give num_classes for a new one, or 0"):
        transxnet.create_model("transxnet_nano", checkpoint=weights)
    assert transxnet.create_model("transxnet_nano", checkpoint=weights, num_classes=1000).num_classes == 1000


# Downloads


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Reachable URLs and their files; all others fail as without a network."""
    reachable: dict[str, Path] = {}
    urlopen = urllib.request.urlopen

    def answer(request: urllib.request.Request, **settings: Any) -> Any:
        if request.full_url not in reachable:
            raise urllib.error.URLError("Name or service not known")
        return urlopen(reachable[request.full_url].as_uri(), **settings)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    return reachable


@pytest.mark.parametrize("release", transxnet.RELEASED, ids=lambda release: release.file)
@pytest.mark.usefixtures("downloads")
def test_no_network(release: Any) -> None:
    message = rf"could not download .*/{release.file} \(Name or service not known\); .* give its path"
    with pytest.raises(CheckpointError, match=message):
        timm.create_model(f"{release.architecture}.{release.tag}", pretrained=True)


@pytest.mark.parametrize("way", ["timm features", "address"])
def test_released_weights_are_downloaded(
    released: Released, downloads: dict[str, Path], tmp_path: Path, way: str
) -> None:
    url = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-t.pth.tar"
    downloads[url] = tmp_path / "file"
    torch.save({"state_dict": released("tiny")}, downloads[url])
    if way == "address":
        model: Any = transxnet.create_model("transxnet_tiny", checkpoint=url)
    else:
        model = timm.create_model("transxnet_tiny", pretrained=True, features_only=way == "timm features")
    stem = released("tiny")["patch_embed.proj.conv.weight"]
    assert torch.equal(model.state_dict()["stem.conv.weight"], stem)


def test_nano_has_no_released_weights() -> None:
    with pytest.raises(CheckpointError, match="no released weights for transxnet_nano; give a checkpoint, or train"):
        timm.create_model("transxnet_nano", pretrained=True)
