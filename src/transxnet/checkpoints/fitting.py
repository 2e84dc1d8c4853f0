"""Adapting state dicts to networks, with exact errors where they do not fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Set

from torch import Tensor, nn

from transxnet.checkpoints.released import MARKER, from_released
from transxnet.checkpoints.tensors import check_values
from transxnet.config import VARIANTS, TransXNetConfig
from transxnet.errors import CheckpointError, ConfigError
from transxnet.layers import PositionBias
from transxnet.model import Trunk

_BLOCK = re.compile(r"stages\.(\d{1,9})\.blocks\.(\d{1,9})\.", re.ASCII)
_STAGE_PART = re.compile(r"(stages|norms)\.(\d{1,9})", re.ASCII)
_HEAD = "head.fc."


def fit(
    state_dict: Mapping[str, Tensor],
    model: Trunk,
    *,
    source: str = "the state dict",
    stored_size: tuple[int, int] | None = None,
    keep_size: bool = False,
    adapted: bool = False,
) -> dict[str, Tensor]:
    """Adapt a state dict to have exactly the entries of ``model``.

    Stages and output normalisations that the network was built without are dropped. For position
    biases of another image size the network's size changes, or with ``keep_size`` they are resized.

    Args:
        state_dict: Weights under the released names or ours.
        model: The network; its position biases may be replaced.
        source: Source of the weights, for messages.
        stored_size: Image size (height, width) of the stored position biases, if known.
        keep_size: Whether to keep the network's image size.
        adapted: Whether timm will adapt an absent or differently sized classifier, and a stem with
            another number of input channels.

    Raises:
        CheckpointError: If the weights are another variant's, entries are missing, unexpected or of
            another shape, or the network cannot hold the values.
    """
    weights = from_released(state_dict) if MARKER in state_dict else dict(state_dict)
    check_variant(weights, model.config, source)
    _fit_position_biases(weights, model, source, stored_size, keep_size)
    parts = {name for name, _ in model.named_modules()}
    weights = {name: tensor for name, tensor in weights.items() if not _is_dropped(name, model, parts)}
    _check_entries(weights, model, source, adapted)
    check_values(weights, model.state_dict(), source)
    return weights


def variant_of(state_dict: Mapping[str, Tensor]) -> str:
    """The registered name of the variant with the weights' depths and channels; empty if none."""
    depths, channels = sizes_of(state_dict)
    for name, config in VARIANTS.items():
        if (config.depths, config.channels) == (depths, channels):
            return name
    return ""


def sizes_of(weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and channels of the stages, from the entries of a classifier or backbone under our names."""
    blocks = {(int(match[1]), int(match[2])) for match in map(_BLOCK.match, weights) if match}
    depths = Counter(stage for stage, _ in blocks)
    norms = [weights.get(f"stages.{stage}.blocks.0.norm1.weight") for stage in sorted(depths)]
    channels = tuple(norm.shape[0] for norm in norms if norm is not None and norm.ndim == 1)
    return tuple(depths[stage] for stage in sorted(depths)), channels


def check_variant(weights: Mapping[str, Tensor], config: TransXNetConfig, source: str) -> None:
    """Raise CheckpointError if the weights' depths and channels are not the configuration's."""
    depths, channels = sizes_of(weights)
    if not depths:
        names = ", ".join(list(weights)[:3])
        raise CheckpointError(f"{source} is not a checkpoint of TransXNet: it has entries such as {names}")
    if (depths, channels) != (config.depths, config.channels):
        found, expected = variant_of(weights), _name_of(config)
        sizes = f"depths {depths} and channels {channels}"
        raise CheckpointError(
            f"{source} contains {found or f'a network of {sizes}'}, not {expected}",
            f"create {found} instead" if found else "create the network with those sizes",
            f"give --model {found}" if found else "load it in Python with those sizes, and save it with save_model",
            separator=": ",
        )


def _name_of(config: TransXNetConfig) -> str:
    for name, variant in VARIANTS.items():
        if (variant.depths, variant.channels) == (config.depths, config.channels):
            return name
    return f"depths {config.depths} and channels {config.channels}"


def _fit_position_biases(
    weights: dict[str, Tensor], model: Trunk, source: str, stored_size: tuple[int, int] | None, keep_size: bool
) -> None:
    biases = {
        f"stages.{index}.position_bias.table": stage.position_bias
        for index, stage in enumerate(model.stage_list)
        if stage.position_bias is not None
    }
    present = {name: bias for name, bias in biases.items() if name in weights}
    if all(weights[name].shape == bias.table.shape for name, bias in present.items()):
        return
    size = stored_size or square_size(weights, model.config)
    if size is None:
        shapes = ", ".join(str(tuple(weights[name].shape)) for name in present)
        raise CheckpointError(
            f"{source}: its position biases {shapes} fit no square image",
            "create the network with the img_size they were stored for",
            "load it in Python with the img_size they were stored for, and save it with save_model",
        )
    if not keep_size:
        model.set_input_size(size)
        return
    stored = model.config.override(img_size=size)
    for index, (name, bias) in enumerate(present.items()):
        old = PositionBias(bias.table.shape[1], stored.grid(index), bias.reduction, bias.resize)
        if old.table.shape == weights[name].shape:
            old.table = nn.Parameter(weights[name], requires_grad=False)
            weights[name] = old.resized(bias.grid)


def square_size(weights: Mapping[str, Tensor], config: TransXNetConfig) -> tuple[int, int] | None:
    """The square image size, a multiple of 4, that matches the shapes of all position biases."""
    names = [f"stages.{stage}.position_bias.table" for stage in range(config.num_stages)]
    if not all(name in weights for name in names):
        return None
    shapes = [tuple(weights[name].shape) for name in names]
    if not all(len(shape) == 4 for shape in shapes):
        return None
    side = config.strides[0] * math.isqrt(shapes[0][2])
    try:
        square = config.override(img_size=max(side, 1))
    except ConfigError:  # larger than allowed
        return None
    for stage, shape in enumerate(shapes):
        height, width = square.grid(stage)
        keys = -(-height // square.reductions[stage]) * -(-width // square.reductions[stage])
        if shape != (1, square.heads[stage], height * width, keys):
            return None
    return square.img_size


def _check_entries(weights: Mapping[str, Tensor], model: Trunk, source: str, adapted: bool) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if adapted:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(_HEAD)}
        shapes |= _head_shapes(weights, model)
    missing = [name for name in shapes if name not in weights]
    unexpected = [name for name in weights if name not in shapes]
    reshaped = [
        f"{name} {tuple(weights[name].shape)} for {shape}"
        for name, shape in shapes.items()
        if name in weights and not _same_shape(name, tuple(weights[name].shape), shape, adapted)
    ]
    findings = [
        f"{len(names)} {problem}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if findings:
        raise CheckpointError(
            f"{source} does not fit {_name_of(model.config)} ({'; '.join(findings)}): it is incomplete, or from a "
            "network with other settings"
        )


def _head_shapes(weights: Mapping[str, Tensor], model: Trunk) -> dict[str, tuple[int, ...]]:
    """Expected shapes of the file's classifier, for any number of classes; empty if it has none."""
    stored = {name: tuple(tensor.shape) for name, tensor in weights.items() if name.startswith(_HEAD)}
    if not stored:
        return {}
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name.startswith(_HEAD)}
    classes, *widths = stored.get(f"{_HEAD}weight", ()) or (0,)
    if own and own[f"{_HEAD}bias"] == (classes,):
        return own
    width = model.config.channels[-1]  # one for other classes is dropped later, with any pooling
    return {f"{_HEAD}weight": (classes, 2 * width if widths == [2 * width] else width), f"{_HEAD}bias": (classes,)}


def _is_dropped(name: str, model: Trunk, parts: Set[str]) -> bool:
    part = _STAGE_PART.match(name)
    return part is not None and int(part[2]) < model.config.num_stages and part[0] not in parts


def _same_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], adapted: bool) -> bool:
    if adapted and name == "stem.conv.weight":  # another number of input channels
        return len(shape) == 4 and (shape[0], *shape[2:]) == (expected[0], *expected[2:])
    return shape == expected
