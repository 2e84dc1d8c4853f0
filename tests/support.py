"""What several test modules call."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import transxnet
from golden import fixture

Network = TypeVar("Network", bound=nn.Module)
GOLDEN = Path(__file__).parent / "golden"


def images(*shape: int) -> Tensor:
    """A batch (B, C, H, W) that is the same in every run."""
    return torch.from_numpy(fixture.image(shape))


def golden(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def released_shapes(variant: str, kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released "classifier" or "backbone"; variant is "tiny", "small" or "base"."""
    shapes = json.loads((GOLDEN / f"released_{kind}_shapes.json").read_text())[variant]
    return {name: tuple(shape) for name, shape in shapes.items()}


@functools.cache
def released_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(fixture.tensor(name, shape))


def lively(network: Network) -> Network:
    """The network with weights that let every part show in the output; fresh scales nearly silence the branches."""
    aliases = {".scale1.": ".layer_scale.", ".scale2.": ".layer_scale.", "position_bias.table": "relative_pos_enc"}
    state = {}
    for name, tensor in network.state_dict().items():
        alias = functools.reduce(lambda text, pair: text.replace(*pair), aliases.items(), name)
        state[name] = torch.from_numpy(fixture.tensor(alias, tuple(tensor.shape))).to(tensor)
    network.load_state_dict(state)
    return network


def nano(**settings: Any) -> transxnet.TransXNet:
    """A small lively network in evaluation mode."""
    return lively(transxnet.create_model("transxnet_nano", **{"img_size": 64, "num_classes": 10, **settings})).eval()
