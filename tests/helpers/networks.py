"""Networks, weights and comparisons shared by test modules."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import transxnet
from golden import fixture
from transxnet.ablation.rows import ROWS
from transxnet.checkpoints.released import rename
from transxnet.dense.head_description import HeadDescription
from transxnet.layers import LayerScale

Network = TypeVar("Network", bound=nn.Module)
# Exact arithmetic makes these gradients zero: the next batch normalisation removes the shift.
VANISHING = ("token_mixer.proj.5.bias", "token_mixer.proj.6.bias", "mlp.norm.bias")

ONCE = (1, 1, 1, 1)
"""Depths of a network with one block in each stage."""

_SIZES_ONLY = ("table7/1_3", "table7/3", "table7/1_3_5", "table8/0.75")  # as 7/1_3_5_7_9 and 8/0.25 do
Released = Callable[..., dict[str, Tensor]]  # the fixture of that name
GOLDEN = Path(__file__).parents[1] / "golden"
# The ablations' rows have tests of their own, on smaller networks.
NAMES = timm.list_models("transxnet*", exclude_filters=["*_table*"])


def images(*shape: int) -> Tensor:
    """A deterministic batch (B, C, H, W)."""
    return torch.from_numpy(fixture.image(shape))


def described_size(model: Any) -> tuple[int, ...]:
    """Channels, height and width by timm's description of a model."""
    return tuple(timm.models.get_model_input_config(model)["input_size"])


def save_for_hf(model: Any, folder: Path, safe: Any = True) -> None:
    """Save a model as a folder of the Hugging Face Hub by timm."""
    timm.models.save_for_hf(model, str(folder), safe_serialization=safe)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest deviation, as a share of the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the deviation, as a share of the norm."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


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
    """Set weights with which every part affects the output; initial layer scales nearly silence the branches."""
    aliases = {".scale1.": ".layer_scale.", ".scale2.": ".layer_scale.", "position_bias.table": "relative_pos_enc"}
    state = {}
    for name, tensor in network.state_dict().items():
        alias = functools.reduce(lambda text, pair: text.replace(*pair), aliases.items(), name)
        state[name] = torch.from_numpy(fixture.tensor(alias, tuple(tensor.shape))).to(tensor)
    network.load_state_dict(state)
    return network


def nano(**settings: Any) -> transxnet.TransXNet:
    """A small lively network in evaluation mode."""
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return copy.deepcopy(_nano(**plain))


@functools.cache
def _nano(**settings: Any) -> transxnet.TransXNet:
    return lively(transxnet.create_model("transxnet_nano", **{"img_size": 64, "num_classes": 10, **settings})).eval()


def first_stages(count: int, **changed: Any) -> dict[str, Any]:
    """Settings of the nano network's first stages, with one block each: the same parts, traced faster."""
    fields = transxnet.VARIANTS["transxnet_nano"].to_dict()
    short = {name: value[:count] for name, value in fields.items() if isinstance(value, list) and len(value) == 4}
    return {**short, "depths": (1,) * count, **changed}


def lively_dense(kind: str, **changed: Any) -> Any:
    """A small lively segmenter or detector in evaluation mode."""
    create = transxnet.create_segmenter if kind == "semantic_fpn" else transxnet.create_detector
    sizes: dict[str, Any] = {"num_classes": 3, "pyramid_channels": 16, "depths": (1, 1, 1, 1)}
    model: Any = create(kind, backbone="transxnet_nano", **sizes | changed)
    lively(model).eval()
    model.head_description = HeadDescription(kind, 3, 16, label_names=("a", "b", "c"), short=80, long=160)
    return model


def ablation_rows() -> list[Any]:
    """Parameters of a test: the ablations' rows on nano, each network once; slow are those that differ in sizes."""
    different = {row.config("nano"): row for row in reversed(ROWS.values())}.values()
    return [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * (row.name in _SIZES_ONLY)) for row in different]


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of a JSON value, in order."""
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
    """Whether the network has all values of a released file, except entries with the given prefixes."""
    ours = model.state_dict()
    names = [name for name in file if not name.startswith(without)] if without else list(file)
    return all(torch.equal(ours[rename(name)].flatten(), file[name].flatten()) for name in names)


def create(name: str, **settings: Any) -> Any:
    """Create a network through timm."""
    return timm.create_model(name, **settings)


def untrained(name: str, **settings: Any) -> Any:
    """A network on the meta device, for tests of names and shapes."""
    with torch.device("meta"):
        return create(name, **settings).eval()


def empty(*shape: int) -> Tensor:
    """Images on the meta device."""
    return torch.empty(shape, device="meta")


def nano_features(model: transxnet.TransXNet, **settings: Any) -> Any:
    """The ``features_only`` network with the weights of ``model``, a nano network."""
    overlay = {"state_dict": model.state_dict()}
    settings |= {"pretrained": True, "pretrained_cfg_overlay": overlay, "features_only": True}
    return create("transxnet_nano", **settings).eval()


def silent_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters without a gradient."""
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


def hostile(network: Any, seed: int, decades: float = 1.0) -> Any:
    """Set negative, zero or tiny weights of normalisations and scales, and statistics far from the inputs'.

    Args:
        network: The network, which is changed in place.
        seed: Seed of the values.
        decades: Powers of ten by which variances and means differ from 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(draw(module.running_mean, -(10**decades), 10**decades) / 3)
                module.running_var.copy_(10 ** draw(module.running_var, -2 * decades, 2 * decades))
                module.bias.copy_(draw(module.bias, -1, 1))
            if isinstance(module, _BatchNorm | LayerScale):
                weight = draw(module.weight, -1.5, 1.5)
                kind = draw(module.weight, 0, 1)
                weight = torch.where(kind < 0.1, 0.0, torch.where(kind < 0.2, 1e-12 * weight, weight))
                module.weight.copy_(weight)
    return network


def tensors(output: Any) -> list[Tensor]:
    """All tensors of a network's output."""
    if isinstance(output, Tensor):
        return [output]
    parts = list(output.values()) if isinstance(output, dict) else list(output)
    return [tensor for part in parts for tensor in tensors(part)]


def assert_same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Check equality up to a share of the largest value."""
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        assert (one.double() - other.double()).abs().max() <= tolerance * other.abs().max()


def dense(kind: str) -> Any:
    if kind == "backbone":
        return transxnet.create_backbone("transxnet_nano", out_indices=(1, 3))
    if kind == "semantic_fpn":
        return transxnet.create_segmenter(kind, backbone="transxnet_nano", num_classes=5, pyramid_channels=16)
    detector = transxnet.create_detector(kind, backbone="transxnet_nano", num_classes=3, pyramid_channels=16)
    detector.transform.short = 64
    return detector


@functools.cache
def released_dense(kind: str, variant: str = "tiny") -> dict[str, Tensor]:
    """The state dict of a released detector or segmenter, adjusted as for its golden file."""
    shapes = json.loads((GOLDEN / "released_dense_shapes.json").read_text())[kind][variant]
    names = {f"backbone.{n}": s for n, s in released_shapes(variant, "backbone").items()
             if n not in shapes["backbone_without"]}  # fmt: skip
    names |= {name: tuple(shape) for name, shape in shapes["others"].items()}
    weights = fixture.state_dict(names)
    if variant == "tiny":
        for name, changes in json.loads(str(golden(f"dense_{kind}_tiny")["adjust"])).items():
            for operation, number, *index in changes:
                part = weights[name][index[0]] if index else weights[name]
                changed = part * np.float32(number) if operation == "mul" else part + np.float32(number)
                weights[name][index[0] if index else ...] = changed
    return {name: torch.from_numpy(weight) for name, weight in weights.items()}
