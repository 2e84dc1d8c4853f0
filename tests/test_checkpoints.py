"""Released files and our own: what is read, what is refused and how, what is written."""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import pickle
import shutil
import tempfile
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import transxnet
from support import images, nano, released_tensor
from transxnet import CheckpointError
from transxnet.checkpoints.released import rename
from transxnet.files import replacing

Released = Callable[..., dict[str, Tensor]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone at once: large files are written here."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def holds(model: nn.Module, file: dict[str, Tensor], without: tuple[str, ...] = ()) -> bool:
    """Whether the network has every value of a released file, save the parts that are named."""
    ours = model.state_dict()
    names = [name for name in file if not name.startswith(without)] if without else list(file)
    return all(torch.equal(ours[rename(name)].flatten(), file[name].flatten()) for name in names)


@functools.cache
def nano_weights() -> dict[str, Tensor]:
    return nano().state_dict()


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    ours = model.state_dict()
    return ours.keys() == weights.keys() and all(torch.equal(tensor, weights[name]) for name, tensor in ours.items())


# Released files


@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_released_classifiers(released: Released, folder: Path, variant: str) -> None:
    file = released(variant)
    path = folder / f"transx-{variant[0]}.pth.tar"
    torch.save({"epoch": 299, "args": argparse.Namespace(lr=2e-3), "state_dict": file}, path)
    model = transxnet.load_model(path)
    assert model.config == transxnet.VARIANTS[f"transxnet_{variant}"]
    assert model.num_classes == 1000
    assert holds(model, file)


def at_384(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file as it would be if its position biases were stored for 384 x 384 pixels."""
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


def test_biases_of_another_size_are_resized_if_a_size_is_asked_for(released: Released) -> None:
    file = at_384(released("tiny"))
    asked = transxnet.create_model("transxnet_tiny", checkpoint=file, img_size=224).eval()
    adopted = transxnet.create_model("transxnet_tiny", checkpoint=file).eval()
    assert asked.config.img_size == (224, 224)
    assert asked.state_dict()["stages.0.position_bias.table"].shape == (1, 1, 3136, 49)
    assert holds(asked, file, without=("relative_pos_enc",))
    with torch.inference_mode():
        batch = images(1, 3, 224, 224)
        assert torch.equal(asked(batch), adopted(batch))


def test_biases_that_no_square_image_explains() -> None:
    oblong = nano(img_size=(96, 64)).state_dict()
    with pytest.raises(CheckpointError, match="fit no square image; create the network with the img_size"):
        transxnet.create_model("transxnet_nano", checkpoint=oblong)
    model = transxnet.create_model("transxnet_nano", checkpoint=oblong, img_size=(96, 64))
    assert same(model, oblong)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("layout", [None, "state_dict", "model", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("way", ["path", "Path", "state dict", "timm"])
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
    for layout in (None, "state_dict", "model", "model_ema", "state_dict_ema"):
        for prefix in ("", "module.", "_orig_mod.module."):
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


def test_a_given_state_dict_is_left_alone(released: Released) -> None:
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


# Dense backbones


@pytest.mark.parametrize("name", ["transxnet_tiny", "transxnet_t"])
def test_backbone_of_a_classifiers_file(released: Released, name: str) -> None:
    file = released("tiny")
    backbone = transxnet.create_backbone(name, checkpoint=file)
    assert (backbone.channels, backbone.strides) == ((48, 96, 224, 448), (4, 8, 16, 32))
    assert holds(backbone, file, without=("classifier.",))
    for norm in backbone.norms.values():
        assert norm.get_parameter("weight").eq(1).all()
        assert norm.get_parameter("bias").eq(0).all()


def test_backbone_of_a_backbones_file(released: Released) -> None:
    file = released("tiny", "backbone")
    assert holds(transxnet.create_backbone("transxnet_tiny", checkpoint={"state_dict": file}), file)


@pytest.mark.parametrize("kind", ["classifier", "backbone"])
@pytest.mark.parametrize("out_indices", [(1, 2, 3), (0, 1)])
def test_backbone_of_some_stages(released: Released, kind: str, out_indices: tuple[int, ...]) -> None:
    every = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", kind)).eval()
    some = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", kind), out_indices=out_indices)
    batch = images(1, 3, 64, 64)
    with torch.inference_mode():
        maps, expected = some.eval()(batch), every(batch)
    assert some.channels == tuple(every.channels[index] for index in out_indices)
    assert all(torch.equal(a, expected[index]) for a, index in zip(maps, out_indices, strict=True))


def test_backbone_of_our_file(tmp_path: Path) -> None:
    model = nano(attention_shares=(0.25, 0.5, 0.75, 0.5))
    transxnet.save_model(model, tmp_path / "model.safetensors")
    backbone = transxnet.create_backbone("transxnet_nano", checkpoint=tmp_path / "model.safetensors").eval()
    batch = images(1, 3, 75, 90)
    with torch.inference_mode():
        final, _ = model.forward_intermediates(batch)
        backbone.norms["3"].load_state_dict(model.norm.state_dict())
        assert torch.equal(backbone(batch)[-1], final)


@pytest.mark.parametrize("out_indices", [(), (4,), (-1,)])
def test_backbone_of_stages_that_do_not_exist(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(transxnet.ConfigError, match="out_indices are stages from 0 to 3"):
        transxnet.create_backbone("transxnet_nano", out_indices=out_indices)


def test_backbone_of_an_unknown_name() -> None:
    with pytest.raises(transxnet.ConfigError, match="no network 'transxnet_huge'; did you mean"):
        transxnet.create_backbone("transxnet_huge")


# Weights that do not fit


def without_an_entry(weights: dict[str, Tensor]) -> None:
    del weights["stages.2.blocks.1.ffn.norm.bias"]


def with_an_entry_more(weights: dict[str, Tensor]) -> None:
    weights["stages.2.gate.weight"] = torch.zeros(1)


def with_an_entry_reshaped(weights: dict[str, Tensor]) -> None:
    weights["stages.2.blocks.1.ffn.norm.bias"] = torch.zeros(7)


def of_another_kernel_size(weights: dict[str, Tensor]) -> None:
    weights.update(nano(kernel_sizes=5).state_dict())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_an_entry, r"1 missing: stages\.2\.blocks\.1\.ffn\.norm\.bias"),
        (with_an_entry_more, r"1 unexpected: stages\.2\.gate\.weight"),
        (with_an_entry_reshaped, r"1 of another shape: stages\.2\.blocks\.1\.ffn\.norm\.bias \(7,\) for \(288,\)"),
        (of_another_kernel_size, r"6 of another shape: .*\(2, 12, 5, 5\) for \(2, 12, 7, 7\)"),
    ],
)
@pytest.mark.parametrize("create", [transxnet.create_model, transxnet.create_backbone])
def test_entries_that_do_not_fit_are_named(
    create: Any, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    weights = dict(nano_weights())
    spoil(weights)
    with pytest.raises(CheckpointError, match=message):
        create("transxnet_nano", checkpoint=weights)


@pytest.mark.parametrize("create", [transxnet.create_model, transxnet.create_backbone])
def test_a_wrong_variant_is_named(create: Any, released: Released) -> None:
    with pytest.raises(CheckpointError, match="holds transxnet_tiny, not transxnet_small: create transxnet_tiny"):
        create("transxnet_small", checkpoint=released("tiny"))


@pytest.mark.parametrize("create", [transxnet.create_model, transxnet.create_backbone])
def test_our_file_of_another_variant_is_refused(create: Any, tmp_path: Path) -> None:
    path = transxnet.save_model(nano(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds transxnet_nano, not transxnet_tiny"):
        create("transxnet_tiny", checkpoint=path)


def test_weights_of_unknown_sizes(tmp_path: Path) -> None:
    sizes = {"depths": (1, 1, 1, 1), "channels": (8, 16, 32, 40)}
    weights = nano(**sizes).state_dict()
    torch.save(weights, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="does not say which network it holds; use create_model with a name"):
        transxnet.load_model(tmp_path / "mine.pth")
    with pytest.raises(
        CheckpointError, match=r"holds a network of depths \(1, 1, 1, 1\) and channels \(8, 16, 32, 40\)"
    ):
        transxnet.create_model("transxnet_nano", checkpoint=weights)
    model = transxnet.create_model("transxnet_nano", checkpoint=weights, **sizes)
    assert same(model, weights)


def test_another_architecture_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"is not a TransXNet's: it has entries like 0\.weight"):
        transxnet.create_model("transxnet_nano", checkpoint=nn.Sequential(nn.Linear(2, 2)).state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "best": 81.6}, "holds no state dict: epoch, best are not tensors"),
        ({"state_dict": {}}, "holds no state dict"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict, but a list"),
        (torch.zeros(3), "holds no state dict, but a Tensor"),
    ],
)
def test_files_without_weights(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message):
        transxnet.create_model("transxnet_nano", checkpoint=tmp_path / "file.pth")


# Damaged and dangerous files


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        transxnet.create_model("transxnet_nano", checkpoint=path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def small_files() -> dict[str, bytes]:
    """Complete files of the formats that are read; small, since damage shows before the content."""
    weights = {"stages.0.blocks.0.dpe.weight": torch.arange(40.0), "stem.conv.weight": torch.ones(3)}
    files = {"our.safetensors": safetensors.torch.save(weights)}
    for name, zipped in (("zip.pth", True), ("old.pth", False)):
        file = io.BytesIO()
        torch.save({"state_dict": weights}, file, _use_new_zipfile_serialization=zipped)
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "our.safetensors"])
def test_files_cut_off_anywhere(small_files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    complete, path = small_files[name], tmp_path / name
    for length in {*range(1, len(complete), 13), len(complete) - 1}:
        path.write_bytes(complete[:length])
        assert f"({length:,} bytes) is truncated or not a checkpoint; download or copy it again" in refusal(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.tar", "weights.safetensors"])
@pytest.mark.parametrize("text", ["", "<!DOCTYPE html>\n<title>Not found</title>\n", "class names\ncat\ndog\n"])
def test_empty_and_text_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    expected = "is truncated or not a checkpoint" if text else r"is empty (0 bytes): copy or download it again"
    assert expected in refusal(tmp_path / name)


@pytest.mark.parametrize("swapped", [("zip.pth", "weights.safetensors"), ("our.safetensors", "weights.pth")])
def test_a_misleading_suffix(small_files: dict[str, bytes], swapped: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / swapped[1]).write_bytes(small_files[swapped[0]])
    assert "not a checkpoint" in refusal(tmp_path / swapped[1])


class Intruder:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def zip_pickle(content: Any, path: Path) -> None:
    torch.save(content, path)


def old_pickle(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [zip_pickle, old_pickle, bare_pickle])
def test_a_pickle_that_wants_to_run_code_does_not(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "intruder was here"
    write({"state_dict": nano_weights(), "extra": Intruder(mark)}, path)
    message = refusal(path)
    assert not mark.exists()
    assert "wants to run code" in message
    assert "mkdir" in message


@pytest.mark.parametrize("name", ["nowhere.pth", "folder"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "does not exist" in refusal(tmp_path / name)


# Downloads


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Addresses that can be reached, and the files there; without any, there is no network."""
    reachable: dict[str, Path] = {}

    def download(url: str, target: str, *_: Any, **__: Any) -> None:
        if url not in reachable:
            raise urllib.error.URLError("Name or service not known")
        shutil.copy(reachable[url], target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("timm.models._hub.download_url_to_file", download)
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    return reachable


@pytest.mark.parametrize("release", transxnet.RELEASED, ids=lambda release: release.file)
@pytest.mark.usefixtures("downloads")
def test_no_network(release: Any) -> None:
    message = rf"could not download .*/{release.file} \(Name or service not known\); .* give its path"
    with pytest.raises(CheckpointError, match=message):
        timm.create_model(f"{release.architecture}.{release.tag}", pretrained=True)


@pytest.mark.parametrize("way", ["timm", "timm features", "address"])
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


# Our own files


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


def test_settings_override_those_of_the_file(tmp_path: Path) -> None:
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
    timm.models.save_for_hf(model, str(tmp_path / "export"), safe_serialization="both")
    loaded: Any = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    assert same(loaded, model.state_dict())


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
