"""Sizes and costs of Table I, the shares of Table VIII, and the names of the released files."""

from __future__ import annotations

import pytest
import torch

import transxnet
from helpers.networks import released_shapes
from transxnet.checkpoints.released import from_released
from transxnet.research.complexity import complexity

VARIANTS = ("tiny", "small", "base")


@pytest.mark.parametrize(
    ("variant", "parameters", "paper_macs", "macs"),
    [
        ("tiny", 12_834_808, "1.762", "1.807"),
        ("small", 26_864_068, "4.537", "4.607"),
        ("base", 48_009_002, "8.264", "8.353"),
    ],
)
def test_table_1(variant: str, parameters: int, paper_macs: str, macs: str) -> None:
    with torch.device("meta"):
        counted = complexity(transxnet.create_model(f"transxnet_{variant}"), (3, 224, 224))
    assert counted.parameters == parameters
    assert f"{counted.paper_macs / 1e9:.3f}" == paper_macs
    assert f"{counted.macs / 1e9:.3f}" == macs


@pytest.mark.parametrize(("share", "parameters", "paper_macs"), [(0.25, "12.539", "1.723"), (0.75, "13.641", "1.840")])
def test_attention_shares_of_table_8(share: float, parameters: str, paper_macs: str) -> None:
    with torch.device("meta"):
        counted = complexity(transxnet.create_model("transxnet_tiny", attention_shares=share), (3, 224, 224))
    assert f"{counted.parameters / 1e6:.3f}" == parameters
    assert f"{counted.paper_macs / 1e9:.3f}" == paper_macs


def test_counting_leaves_the_network_as_it_was() -> None:
    model = transxnet.create_model("transxnet_nano").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    complexity(model, (3, 64, 64))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_released_names_map_one_to_one(variant: str, kind: str) -> None:
    create = transxnet.create_model if kind == "classifier" else transxnet.create_backbone
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in create(f"transxnet_{variant}").state_dict().items()}
        file = {name: torch.empty(shape) for name, shape in released_shapes(variant, kind).items()}
        mapped = from_released(file)
    assert len(mapped) == len(file)
    assert {name: tuple(tensor.shape) for name, tensor in mapped.items()} == ours
