"""Writing weights, with everything that is needed to build the network again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol, cast

import safetensors.torch
from torch import nn

from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.errors import ConfigError
from transxnet.files import replacing
from transxnet.model import TransXNet, is_fused

_DESCRIBED = ("num_classes", "label_names", "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


class Describable(Protocol):
    """A network that says for itself what it is."""

    def describe(self) -> dict[str, Any]:
        """Architecture, configuration and the rest, as plain values."""
        ...


def description(model: nn.Module) -> str:
    """Architecture, configuration, preprocessing and class names of a network, as JSON."""
    if not isinstance(model, TransXNet):
        return json.dumps(cast(Describable, model).describe())
    described: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    kept = {name: described[name] for name in _DESCRIBED if name in described}
    if len(kept.get("label_names") or ()) != model.num_classes:
        kept.pop("label_names", None)  # of a classifier that was replaced
    return json.dumps(
        {
            "architecture": described.get("architecture", ""),
            "config": model.config.to_dict(),
            "pretrained_cfg": {**kept, "num_classes": model.num_classes},
        }
    )


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a network as safetensors with its configuration, preprocessing and class names inside.

    ``transxnet.load_model``, ``load_detector`` and ``load_segmenter`` are the ways back. The file
    appears complete or not at all.

    Args:
        model: A classifier made by timm or by :mod:`transxnet.registry`, a detector or a segmenter.
        path: The file; its suffix should be ``.safetensors``.

    Raises:
        ConfigError: If the network is fused: its weights would fit no network that loads files.
    """
    if is_fused(model):
        raise ConfigError("a fused network cannot be saved; save the one it was made from, and fuse it after loading")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    target = Path(path)
    with replacing(target) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, {"format": "pt", METADATA_KEY: description(model)}))
    return target
