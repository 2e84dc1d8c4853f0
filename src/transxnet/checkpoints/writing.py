"""Writing checkpoints that contain everything needed to rebuild the network."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Protocol, cast

import safetensors.torch
from torch import nn

from transxnet.checkpoints.preprocessing import checked_preprocessing
from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.checkpoints.values import label_names
from transxnet.errors import ConfigError
from transxnet.files import replacing, user_path
from transxnet.model import TransXNet, is_fused

_ALIGNMENT = 8  # bytes, of the values in a safetensors file


class Describable(Protocol):
    """A network that describes itself."""

    def describe(self) -> dict[str, Any]:
        """Architecture, configuration and other metadata, as plain values."""
        ...


def description(model: nn.Module) -> str:
    """Architecture, configuration, preprocessing and class names of a network, as JSON.

    Raises:
        ConfigError: If the network is not a classifier, detector or segmenter of ours, or its
            ``pretrained_cfg`` has invalid values.
    """
    if isinstance(model, TransXNet):
        described: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        about = {
            "architecture": described.get("architecture", ""),
            "config": model.config.to_dict(),
            "pretrained_cfg": _preprocessing(model, described),
        }
    elif hasattr(model, "describe"):
        about = cast(Describable, model).describe()
    else:
        raise ConfigError(f"only classifiers, detectors and segmenters can be saved, not {type(model).__name__}")
    return json.dumps(about, sort_keys=True)


def _preprocessing(model: TransXNet, described: dict[str, Any]) -> dict[str, Any]:
    names = described.get("label_names") or ()
    if len(names) != model.num_classes:  # the classifier was replaced
        names = ()
    size = described.get("input_size")
    if size is not None:  # the stem may have been adapted
        described = {**described, "input_size": (model.in_chans, *size[1:])}
    kept = checked_preprocessing(described, model.in_chans) | {"num_classes": model.num_classes}
    labels = label_names(list(names), model.num_classes)
    return kept | ({"label_names": labels} if labels else {})


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a network as safetensors, with configuration, preprocessing and class names as metadata.

    Load it with ``transxnet.load_model``, ``load_detector`` or ``load_segmenter``. Writing is atomic,
    and equal networks give equal files.

    Args:
        model: A classifier made by timm or by :mod:`transxnet.zoo`, a detector or a segmenter.
        path: The file; its suffix should be ``.safetensors``.

    Raises:
        ConfigError: If the network is fused, whose weights no other network could load, or is not one
            of ours.
    """
    if is_fused(model):
        raise ConfigError("a fused network cannot be saved; save the original network, and fuse it after loading")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = safetensors.torch.save(tensors, {"format": "pt", METADATA_KEY: description(model)})
    target = user_path(path)
    with replacing(target) as temporary, temporary.open("wb") as file:
        header, values = _in_order(content)
        file.write(header)
        file.write(values)
    return target


def _in_order(content: bytes) -> tuple[bytes, memoryview]:
    """Split a safetensors file into its header, with the metadata sorted, and its values; the library does not sort."""
    (length,) = struct.unpack_from("<Q", content)
    start = struct.calcsize("<Q")
    entries = json.loads(content[start : start + length])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return struct.pack("<Q", len(header)) + header, memoryview(content)[start + length :]
