"""Networks for analysis, ours and timm's, by name or checkpoint, and the maps of their stages."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import split_model_name_tag
from torch import Tensor, nn

from transxnet.bounds import ImageSide, Seed, checked, shown
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.checkpoints.tensors import check_values
from transxnet.config import VARIANTS
from transxnet.data.randomness import addressed_randomness
from transxnet.errors import CheckpointError, ConfigError
from transxnet.text import printable
from transxnet.zoo import SHORT_NAMES, create_model, load_model


@dataclass(frozen=True)
class Network:
    """A classifier in evaluation mode, with its name.

    Attributes:
        name: Its registered name, or the checkpoint's file name.
        weights: Source of the weights, such as "random, seed 0".
        model: The network.
        trained: Whether the weights are from a file.
    """

    name: str
    weights: str
    model: nn.Module
    trained: bool

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of its input images."""
        channels, height, width = self.model.pretrained_cfg["input_size"]  # type: ignore[index]
        return channels, height, width


def describe_sizes(networks: Sequence[Network]) -> str:
    """Distinct sizes of the networks' images, such as "224 × 224"."""
    return " and ".join(dict.fromkeys("{} × {}".format(*network.input_size[1:]) for network in networks))


def describe_weights(networks: Sequence[Network]) -> str:
    """Sources of the networks' weights, one per line, untrained networks together."""
    lines = [f"{network.name}: {network.weights}" for network in networks if network.trained]
    untrained = [network for network in networks if not network.trained]
    if untrained:
        names = "" if len(untrained) == len(networks) else f" ({', '.join(network.name for network in untrained)})"
        lines.append(f"untrained: weights {untrained[0].weights}{names}")
    return "\n".join(dict.fromkeys(map(printable, lines)))


def open_networks(
    models: Sequence[str],
    checkpoints: Sequence[str] = (),
    *,
    pretrained: bool = False,
    image_size: int | None = None,
    seed: int = 0,
) -> list[Network]:
    """Create the networks named on a command line, in the given order.

    Args:
        models: ``NAME`` or ``NAME=CHECKPOINT``, of our networks or timm's.
        checkpoints: Files, run folders or URLs: weights of the one model, or without models our classifiers.
        pretrained: Whether to download weights of networks without a checkpoint.
        image_size: Side of square images in pixels; the networks' own by default.
        seed: Seed of random weights of networks without others.

    Raises:
        CheckpointError: If weights cannot be loaded.
        ConfigError: If a name is unknown, or several models share checkpoints.
    """
    checked("image_size", image_size, ImageSide | None)
    checked("seed", seed, Seed)
    pairs = [(name, checkpoint) for name, _, checkpoint in (model.partition("=") for model in models)]
    if checkpoints:
        if len(pairs) > 1 or any(checkpoint for _, checkpoint in pairs):
            raise ConfigError("with several models, give each its weights: --model NAME=CHECKPOINT")
        pairs = [(pairs[0][0] if pairs else "", checkpoint) for checkpoint in checkpoints]
    return [_open(name, checkpoint, pretrained, image_size, seed) for name, checkpoint in pairs]


def _open(name: str, checkpoint: str, pretrained: bool, image_size: int | None, seed: int) -> Network:
    with addressed_randomness(seed):
        model = _create(name, checkpoint, pretrained, image_size)
    if image_size is not None:
        config = vars(model)["pretrained_cfg"]
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    weights = checkpoint or ("pretrained" if pretrained else f"random, seed {seed}")
    title = f"{name} ({Path(checkpoint).name})" if name and checkpoint else name or Path(checkpoint).name
    return Network(title, weights, model.eval(), trained=bool(checkpoint or pretrained))


def _create(name: str, checkpoint: str, pretrained: bool, image_size: int | None) -> nn.Module:
    if not name:
        return load_model(checkpoint)
    known, _ = split_model_name_tag(name)
    if known in (*VARIANTS, *SHORT_NAMES):
        return create_model(name, checkpoint=checkpoint) if checkpoint else create_model(name, pretrained=pretrained)
    if not timm.is_model(known):
        names = [*VARIANTS, *timm.list_models()]
        near = difflib.get_close_matches(known, names, 1)
        raise ConfigError(
            f"neither transxnet nor timm has a network {name!r}" + (f"; did you mean {near[0]}?" if near else "")
        )
    settings: dict[str, Any] = {}
    if image_size is not None and _stores_size(known):
        settings["img_size"] = image_size
    try:
        model = timm.create_model(name, pretrained=pretrained and not checkpoint, **settings)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be created: {str(error).partition(chr(10))[0]}") from error
    if checkpoint:
        _load(model, checkpoint, name)
    return model


def _load(model: nn.Module, checkpoint: str, name: str) -> None:
    """Load the weights of a network of timm; raises CheckpointError if they do not fit."""
    weights = read_checkpoint(checkpoint).state_dict
    own = dict(model.named_parameters())
    check_values({entry: tensor for entry, tensor in weights.items() if entry in own}, own, checkpoint)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{checkpoint} does not fit {name}: {reason}") from error


def _stores_size(name: str) -> bool:
    """Whether a network of timm is built for one image size."""
    with torch.device("meta"):
        kind = type(timm.create_model(name))
    return "img_size" in inspect.signature(kind.__init__).parameters


def moved(model: nn.Module, device: str) -> nn.Module:
    """A network on a device, on a GPU with the channels last in memory; in float32, whose gradients are wanted."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if torch.device(device).type == "cuda" else model


def stage_names(model: nn.Module) -> dict[int, str]:
    """The stages of a network, by number from 1, and the names of their modules.

    Stages are the entries of timm's ``feature_info`` with a stride of at least 4, which excludes stems;
    in a plain vision transformer, each block is a stage.

    Raises:
        ConfigError: If the network does not describe its stages.
    """
    return {stage: info["module"] for stage, (_, info) in enumerate(_stages(model), start=1)}


def _stages(model: nn.Module) -> list[tuple[int, Mapping[str, Any]]]:
    features: Any = getattr(model, "feature_info", None)
    entries = list(getattr(features, "info", features) or [])
    if not entries:
        raise ConfigError(f"{type(model).__name__} does not describe its stages (timm's feature_info)")
    return [(index, info) for index, info in enumerate(entries) if info["reduction"] >= 4]


def stage_index(model: nn.Module, stage: str) -> int:
    """The number of a stage given as a number from 1 or as "last"; raises ConfigError if there is none."""
    count = len(stage_names(model))
    number = count if stage == "last" else int(stage) if stage.isdecimal() and len(stage) < 10 else 0
    if not 1 <= number <= count:
        raise ConfigError(f'{type(model).__name__} has stages 1 to {count} (or "last"), not {shown(stage)}')
    return number


def stage_maps(model: nn.Module, images: Tensor, stages: Sequence[int]) -> list[Tensor]:
    """Outputs of stages, before any final normalisation.

    Args:
        model: A network with timm's ``forward_intermediates``.
        images: (B, C, H, W).
        stages: Numbers of the stages, as in :func:`stage_names`, increasing.

    Returns:
        A map (B, C', H', W') for each stage, for networks of any memory format.
    """
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(f"{type(model).__name__} cannot return its stages' maps (timm's forward_intermediates)")
    known = _stages(model)
    indices = [known[stage - 1][0] for stage in stages]
    maps: list[Tensor] = model.forward_intermediates(  # type: ignore[operator]
        images, indices=indices, output_fmt="NCHW", intermediates_only=True, stop_early=True
    )
    return maps
