"""Files that do not fit, are damaged or would run code are refused with clear errors."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import transxnet
from helpers.networks import Released, nano, nano_weights, same
from transxnet import CheckpointError

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
    with pytest.raises(CheckpointError, match="contains transxnet_tiny, not transxnet_small: create transxnet_tiny"):
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
        CheckpointError, match=r"contains a network of depths \(1, 1, 1, 1\) and channels \(8, 16, 32, 40\)"
    ):
        transxnet.create_model("transxnet_nano", checkpoint=weights)
    model = transxnet.create_model("transxnet_nano", checkpoint=weights, **sizes)
    assert same(model, weights)


def test_another_architecture_is_reported() -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of TransXNet: it has entries such as 0\.weight"):
        transxnet.create_model("transxnet_nano", checkpoint=nn.Sequential(nn.Linear(2, 2)).state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "best": 81.6}, "has no state dict: epoch, best are not tensors"),
        ({"state_dict": {}}, "has no state dict"),
        ({}, "has no state dict"),
        ([1, 2], "has no state dict, but a list"),
        (torch.zeros(3), "has no state dict, but a Tensor"),
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
    """Small complete files of each format."""
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
def test_a_pickle_cannot_run_code(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "intruder was here"
    write({"state_dict": nano_weights(), "extra": Intruder(mark)}, path)
    message = refusal(path)
    assert not mark.exists()
    assert "would run code" in message
    assert "mkdir" in message


@pytest.mark.parametrize("name", ["nowhere.pth", "folder"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "does not exist" in refusal(tmp_path / name)
