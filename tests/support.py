"""What several test modules call."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from torch import Tensor, nn

import transxnet
from golden import fixture
from transxnet.checkpoints.released import rename
from transxnet.dense.head import Head

Network = TypeVar("Network", bound=nn.Module)
Released = Callable[..., dict[str, Tensor]]  # the fixture of that name
GOLDEN = Path(__file__).parent / "golden"
# The ablations' rows have tests of their own, on smaller networks.
NAMES = timm.list_models("transxnet*", exclude_filters="*_table*")


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


def first_stages(count: int, **changed: Any) -> dict[str, Any]:
    """Settings of the nano network with its first stages alone, one block in each: the same parts, traced sooner."""
    fields = transxnet.VARIANTS["transxnet_nano"].to_dict()
    short = {name: value[:count] for name, value in fields.items() if isinstance(value, list) and len(value) == 4}
    return {**short, "depths": (1,) * count, **changed}


def lively_dense(kind: str) -> Any:
    """A small segmenter or detector, likewise."""
    create = transxnet.create_segmenter if kind == "semantic_fpn" else transxnet.create_detector
    model = create(kind, backbone="transxnet_nano", num_classes=3, pyramid_channels=16, depths=(1, 1, 1, 1))
    lively(model).eval()
    model.head_description = Head(kind, 3, 16, label_names=("a", "b", "c"), short=80, long=160)
    return model


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of what JSON holds, in order."""
    if isinstance(value, dict | list):
        for item in value.items() if isinstance(value, dict) else value:
            yield from leaves(list(item) if isinstance(item, tuple) else item)
    else:
        yield value


@functools.cache
def nano_weights() -> dict[str, Tensor]:
    return nano().state_dict()


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Whether the network has these weights and no others."""
    ours = model.state_dict()
    return ours.keys() == weights.keys() and all(torch.equal(tensor, weights[name]) for name, tensor in ours.items())


def holds(model: nn.Module, file: dict[str, Tensor], without: tuple[str, ...] = ()) -> bool:
    """Whether the network has every value of a released file, save the parts that are named."""
    ours = model.state_dict()
    names = [name for name in file if not name.startswith(without)] if without else list(file)
    return all(torch.equal(ours[rename(name)].flatten(), file[name].flatten()) for name in names)


def create(name: str, **settings: Any) -> Any:
    """A network as timm's users create it."""
    return timm.create_model(name, **settings)


def untrained(name: str, **settings: Any) -> Any:
    """A network without memory or arithmetic, for whatever concerns names and shapes only."""
    with torch.device("meta"):
        return create(name, **settings).eval()


def empty(*shape: int) -> Tensor:
    """Images for such a network."""
    return torch.empty(shape, device="meta")


def nano_features(model: transxnet.TransXNet, **settings: Any) -> Any:
    """The ``features_only`` network with the weights of ``model``, a nano network."""
    overlay = {"state_dict": model.state_dict()}
    settings |= {"pretrained": True, "pretrained_cfg_overlay": overlay, "features_only": True}
    return create("transxnet_nano", **settings).eval()


def silent_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that a backward pass has not reached."""
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]
