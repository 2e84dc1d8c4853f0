"""Checkpoints of other programs: the network is found among what they save, whatever is around and beside it."""

from __future__ import annotations

import collections
import datetime
import logging
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import transxnet
from helpers.commands import error_line
from helpers.networks import dense, nano, nano_weights, same
from transxnet import CheckpointError
from transxnet.checkpoints.reading import _report_left_out, read_checkpoint

WEIGHTS = nano_weights()
OTHERS = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
LOSS = {"criterion.weight": torch.ones(3)}
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(24, 3, 7, 7)}}, "param_groups": [{"lr": 1}]}


def below(prefix: str, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def compiled_stages() -> dict[str, Tensor]:
    return {name.replace(".blocks.", "._orig_mod.blocks."): tensor for name, tensor in WEIGHTS.items()}


FILES: dict[str, Any] = {
    "an average": AveragedModel(nano()).state_dict(),
    "an average of a compiled network": {"n_averaged": torch.tensor(3), **below("module._orig_mod.")},
    "an average under a name": {"epoch": 3, "swa_model": {"n_averaged": torch.tensor(3), **below("module.")}},
    "a loop's": {"epoch": 3, "model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER, "loss": 0.3},
    "net": {"net": WEIGHTS, "acc": 81.0, "epoch": 4},
    "network": {"network": below("module.")},
    "an average beside the network": {"model": OTHERS, "ema": WEIGHTS},
    "an average in timm's way": {"state_dict": OTHERS, "state_dict_ema": below("module."), "optimizer": OPTIMIZER},
    "nested": {"state": {"model": {"state_dict": below("net.module.")}}, "config": {"model": {"name": "nano"}}},
    "Lightning's": {"state_dict": below("model."), "optimizer_states": [OPTIMIZER], "hyper_parameters": {"lr": 0.1}},
    "Lightning's compiled": {"state_dict": below("model._orig_mod."), "callbacks": {}, "loops": None},
    "Lightning's with an average": {"state_dict": below("model.", OTHERS) | below("ema_model.module.")},
    "under a name of one's own": {"state_dict": below("encoder.")},
    "stages compiled": compiled_stages(),
    "an epoch among the weights": {"epoch": 3, "best": 0.5, **WEIGHTS},
    "a network and an adversary": {"generator": WEIGHTS, "discriminator": {"0.weight": torch.ones(2)}},
}


@pytest.mark.parametrize("name", FILES)
def test_the_network_is_found(name: str, tmp_path: Path) -> None:
    torch.save(FILES[name], tmp_path / "file.pth")
    assert same(transxnet.load_model(tmp_path / "file.pth"), WEIGHTS)


@pytest.mark.parametrize("beside", [LOSS, below("teacher.", OTHERS), LOSS | below("teacher.", OTHERS)])
@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model."])
def test_what_is_beside_the_network_is_left_out_and_named(
    prefix: str, beside: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _report_left_out.cache_clear()
    torch.save({"state_dict": below(prefix) | beside}, tmp_path / "file.ckpt")
    with caplog.at_level(logging.WARNING, "transxnet"):
        for _ in range(2):
            assert read_checkpoint(tmp_path / "file.ckpt").state_dict.keys() == WEIGHTS.keys()
    (record,) = caplog.records  # once for a file
    count = f"{len(beside):,} entries that are" if len(beside) > 1 else "1 entry that is"
    assert f"file.ckpt: left out {count} not the network's: {next(iter(beside))}" in record.getMessage()


def test_a_safetensors_file_may_have_prefixes_too(tmp_path: Path) -> None:
    safetensors.torch.save_file(below("model.") | LOSS, tmp_path / "file.safetensors")
    assert same(transxnet.load_model(tmp_path / "file.safetensors"), WEIGHTS)


@pytest.mark.parametrize("kind", ["retinanet", "semantic_fpn"])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_detectors_and_segmenters_are_found(kind: str, prefix: str, tmp_path: Path) -> None:
    network = dense(kind)
    weights = network.state_dict()
    torch.save({"state_dict": below(prefix, weights), "epoch": 3}, tmp_path / "file.pth")
    load = transxnet.load_segmenter if kind == "semantic_fpn" else transxnet.load_detector
    assert same(load(tmp_path / "file.pth"), weights)


def test_several_networks_of_which_none_is_meant_are_named() -> None:
    both = below("student.") | below("teacher.", OTHERS)
    with pytest.raises(CheckpointError, match=r"several networks \(student, teacher\): save the one that is wanted"):
        transxnet.create_model("transxnet_nano", checkpoint=both)


PLAIN = {
    "best": np.float64(0.81),
    "epoch": np.int64(3),
    "done": np.bool_(True),
    "history": np.linspace(0, 1, 300),
    "type": np.dtype("float32"),
    "folder": Path("runs/one"),
    "when": datetime.datetime(2020, 1, 2, 3, 4),
    "counts": collections.defaultdict(int, cat=3),
    "lasts": collections.deque([1, 2], maxlen=3),
    "settings": types.SimpleNamespace(lr=0.1),
    "torch": torch.torch_version.TorchVersion("2.0"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_of_other_libraries_are_not_in_the_way(zipped: bool, tmp_path: Path) -> None:
    content = {**PLAIN, "nested": [PLAIN], "state_dict": WEIGHTS}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    assert same(transxnet.load_model(tmp_path / "file.pth"), WEIGHTS)


def test_a_pickled_network_is_named_as_what_is_in_the_way(tmp_path: Path) -> None:
    torch.save({"model": nano()}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"run code \(transxnet\.model\.TransXNet.* save the bare state dict"):
        transxnet.load_model(tmp_path / "file.pth")


UNKNOWN = {"depths": (1, 1, 1, 1), "channels": (8, 16, 32, 40)}


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (nano(**UNKNOWN).state_dict(), (), "does not say which network it holds; name it with --model"),
        (WEIGHTS, ("--model", "transxnet_tiny"), "contains transxnet_nano, not transxnet_tiny: give --model"),
        (
            {name: tensor for name, tensor in WEIGHTS.items() if not name.startswith("head.")},
            ("--model", "transxnet_nano"),
            "holds no classifier; `transxnet train --checkpoint` trains a new one",
        ),
    ],
)  # fmt: skip
def test_commands_speak_of_options(
    content: Any, arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    torch.save(content, tmp_path / "file.pth")
    command = ("eval", "--data", "digits", "--checkpoint", str(tmp_path / "file.pth"), *arguments)
    line = error_line(command, tmp_path / "empty", capsys)
    assert message in line
    assert "create_" not in line and "load_" not in line
