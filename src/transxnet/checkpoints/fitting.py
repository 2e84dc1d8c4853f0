"""Making a state dict fit a network, or saying exactly why it does not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

from transxnet.checkpoints.released import MARKER, from_released
from transxnet.config import VARIANTS, TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.layers import PositionBias
from transxnet.model import Trunk

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_STAGE_PART = re.compile(r"(stages|norms)\.(\d+)")
_HEAD = "head.fc."


def fit(
    state_dict: Mapping[str, Tensor],
    model: Trunk,
    *,
    source: str = "the state dict",
    stored_size: tuple[int, int] | None = None,
    keep_size: bool = False,
) -> dict[str, Tensor]:
    """The state dict with every entry that ``model`` has, and no other.

    Stages and output normalisations that the network was built without are left out.
    Position biases of another image size are adopted by the network, or with ``keep_size`` resized
    to the network's. An absent or differently sized classifier and a stem with another number of
    input channels are left to timm, which adapts them.

    Args:
        state_dict: Weights under the released names or ours.
        model: The network; its position biases may be replaced.
        source: What the weights were read from, for messages.
        stored_size: Image size (height, width) of the stored position biases, if it is known.
        keep_size: Whether the network's image size was asked for.

    Raises:
        CheckpointError: If the weights are another variant's, or entries are missing, unexpected
            or of another shape.
    """
    weights = from_released(state_dict) if MARKER in state_dict else dict(state_dict)
    _check_variant(weights, model.config, source)
    _fit_position_biases(weights, model, source, stored_size, keep_size)
    weights = {name: tensor for name, tensor in weights.items() if not _left_out(name, model)}
    _check_entries(weights, model, source)
    return weights


def variant_of(state_dict: Mapping[str, Tensor]) -> str:
    """The registered name that the weights' depths and channels belong to; empty if none."""
    depths, channels = _sizes(state_dict)
    for name, config in VARIANTS.items():
        if (config.depths, config.channels) == (depths, channels):
            return name
    return ""


def _sizes(weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    blocks = {(int(match[1]), int(match[2])) for match in map(_BLOCK.match, weights) if match}
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(of == stage for of, _ in blocks) for stage in stages)
    names = [f"stages.{stage}.blocks.0.norm1.weight" for stage in stages]
    channels = tuple(weights[name].shape[0] for name in names if name in weights)
    return depths, channels


def _check_variant(weights: Mapping[str, Tensor], config: TransXNetConfig, source: str) -> None:
    depths, channels = _sizes(weights)
    if not depths:
        names = ", ".join(list(weights)[:3])
        raise CheckpointError(f"{source} is not a TransXNet's: it has entries like {names}")
    if (depths, channels) != (config.depths, config.channels):
        held, wanted = variant_of(weights), _name_of(config)
        sizes = f"depths {depths} and channels {channels}"
        raise CheckpointError(
            f"{source} holds {held or f'a network of {sizes}'}, not {wanted}: "
            + (f"create {held} instead" if held else "create the network with those sizes")
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
        advice = "create the network with the img_size they were stored for"
        raise CheckpointError(f"{source}: its position biases {shapes} fit no square image; {advice}")
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
    """The size of a square image, a multiple of 4, that explains the shapes of all position biases."""
    names = [f"stages.{stage}.position_bias.table" for stage in range(config.num_stages)]
    if not all(name in weights for name in names):
        return None
    shapes = [weights[name].shape[-2:] for name in names]
    side = config.strides[0] * math.isqrt(shapes[0][0])
    square = config.override(img_size=max(side, 1))
    for stage, shape in enumerate(shapes):
        height, width = square.grid(stage)
        keys = -(-height // square.reductions[stage]) * -(-width // square.reductions[stage])
        if tuple(shape) != (height * width, keys):
            return None
    return square.img_size


def _check_entries(weights: Mapping[str, Tensor], model: Trunk, source: str) -> None:
    expected = model.state_dict()
    flexible = tuple(name for name in (*weights, *expected) if name.startswith(_HEAD))
    missing = [name for name in expected if name not in weights and name not in flexible]
    unexpected = [name for name in weights if name not in expected and name not in flexible]
    reshaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and name not in flexible and not _same_shape(name, weights[name], tensor)
    ]
    findings = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if findings:
        raise CheckpointError(
            f"{source} does not fit {_name_of(model.config)} ({'; '.join(findings)}): it is incomplete, or of a "
            "network with other settings"
        )


def _left_out(name: str, model: Trunk) -> bool:
    part = _STAGE_PART.match(name)
    return part is not None and int(part[2]) < model.config.num_stages and not _has(model, part[0])


def _has(model: Trunk, name: str) -> bool:
    return any(own == name for own, _ in model.named_modules())


def _same_shape(name: str, weight: Tensor, expected: Tensor) -> bool:
    if name == "stem.conv.weight":  # another number of input channels is adapted
        return weight.shape[0] == expected.shape[0] and weight.shape[2:] == expected.shape[2:]
    return weight.shape == expected.shape
