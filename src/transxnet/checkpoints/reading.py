"""Reading checkpoints without executing code or trusting the sizes that a file states."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import timm
from torch import Tensor

from transxnet.bounds import shown
from transxnet.checkpoints.downloads import download
from transxnet.checkpoints.pickles import load_pickle
from transxnet.checkpoints.preprocessing import checked_preprocessing
from transxnet.checkpoints.released import MARKER, from_released
from transxnet.checkpoints.released_dense import BODY, from_released_dense, is_released_dense
from transxnet.checkpoints.size_checks import check_config, check_depths
from transxnet.checkpoints.tensors import check_kinds, check_sizes, check_storages
from transxnet.checkpoints.values import label_names, parse_metadata, reading_metadata, text
from transxnet.config import TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.files import MAX_TEXT_BYTES, check_regular, open_regular, reason, user_path

METADATA_KEY = "transxnet"
"""Metadata entry with architecture, configuration and preprocessing, as JSON."""

# Averaged weights first: those are the ones that authors evaluate.
_LAYOUTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# In a run folder of ours, or a folder exported by timm.
_IN_FOLDERS = ("weights.safetensors", "model.safetensors", "pytorch_model.bin")
_MAX_NAME = 300
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_MAX_HEADER = 2 * MAX_TEXT_BYTES  # of a safetensors file: metadata, and a hundred bytes per tensor


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names, and the file's metadata.

    Attributes:
        source: Source of the weights, for messages.
        state_dict: The weights.
        architecture: The network's registered name; empty if unknown.
        config: Its configuration, if the file has one; checked against the weights.
        pretrained_cfg: timm's settings (preprocessing, class names), if the file has them.
        head: Description of the head on the backbone, if the file has one.
    """

    source: str
    state_dict: dict[str, Tensor]
    architecture: str = ""
    config: TransXNetConfig | None = None
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)


Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def read_checkpoint(source: Source, cache_dir: str | Path | None = None) -> Checkpoint:
    """Read a released file, one of ours, a run folder, a URL or a state dict.

    Pickles are read with ``weights_only=True``; beside tensors and plain values only an
    ``argparse.Namespace``, as in the released files, is allowed. The weights may be at the top level
    or under ``state_dict``, ``model``, ``state_dict_ema`` or ``model_ema``; averaged weights are
    preferred. Sizes stated by a file are compared with the size of the file before memory is
    allocated.

    Args:
        source: A path, a URL or a mapping; a checkpoint that was read already is returned.
        cache_dir: Cache folder for downloads; PyTorch's by default.

    Raises:
        CheckpointError: If there is no such file, it is damaged, would run code, contradicts itself or
            has no weights, or a URL cannot be reached.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        weights = _weights(source, "the state dict")
        check_kinds(weights, "the state dict")
        return Checkpoint("the state dict", _our_names(weights, "the state dict"))
    name = os.fspath(source)
    path, size = _located(download(name, cache_dir) if "://" in name else user_path(name))
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, size)
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason(error)}") from error
    except Exception as error:  # readers of damaged bytes can raise anything
        raise CheckpointError(
            f"{path} ({size:,} bytes) is truncated or not a checkpoint; download or copy it again [{reason(error)}]"
        ) from error


def _located(path: Path) -> tuple[Path, int]:
    """The file at a path, or the weights in a folder, and its size in bytes."""
    try:
        if path.is_dir():
            path = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), path / _IN_FOLDERS[0])
        size = check_regular(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason(error)}") from error
    if not size:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes): copy or download it again")
    return path, size


def _read_safetensors(path: Path) -> Checkpoint:
    with open_regular(path) as start:
        (header,) = struct.unpack("<Q", start.read(8))
    if header > _MAX_HEADER:
        raise ValueError(f"its header claims {header:,} bytes")
    with safetensors.safe_open(path, framework="pt") as file:  # compares the header's sizes with the file's
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return _with_metadata(path, _weights(tensors, str(path)), metadata.get(METADATA_KEY))


def _read_pickle(path: Path, size: int) -> Checkpoint:
    content = load_pickle(path, shapes_only=True)
    weights = _weights(content, str(path))
    check_kinds(weights, str(path), shapes_only=True)
    check_sizes(weights, size, str(path))
    checkpoint = _with_metadata(path, weights, content.get(METADATA_KEY))
    weights = _weights(load_pickle(path), str(path))
    check_kinds(weights, str(path))
    check_storages(weights, str(path))
    return replace(checkpoint, state_dict=_our_names(weights, str(path)))


def _with_metadata(path: Path, weights: dict[str, Tensor], metadata: Any) -> Checkpoint:
    source = str(path)
    weights = _our_names(weights, source)
    if metadata is None:
        return Checkpoint(source, weights)
    with reading_metadata(source):
        about = parse_metadata(metadata)
        architecture = text("architecture", about["architecture"], ("", *timm.list_models("transxnet*")))
        head, values, preprocessing = (_mapping(about, name) for name in ("head", "config", "pretrained_cfg"))
        body = _body(weights) if head else weights
        check_depths(values, body, source)
        config = TransXNetConfig.from_dict(values)
        check_config(config, body, source, classifier=not head)
        if not head:
            preprocessing = _checked_cfg(preprocessing, config)
    return Checkpoint(source, weights, architecture, config, preprocessing, head)


def _mapping(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = about[name] if name != "head" else about.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {shown(value)}")
    return value


def _checked_cfg(values: Mapping[str, Any], config: TransXNetConfig) -> dict[str, Any]:
    count = values.get("num_classes", config.num_classes)
    if count != config.num_classes or isinstance(count, bool):
        raise ValueError(f"pretrained_cfg has {shown(count)} classes, the configuration {config.num_classes}")
    checked = checked_preprocessing(values, config.in_chans) | {"num_classes": config.num_classes}
    names = label_names(values.get("label_names"), config.num_classes)
    return checked | ({"label_names": list(names)} if names else {})


def _body(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's entries in a detector or segmenter."""
    ours = from_released_dense(weights) if is_released_dense(weights) else weights
    return {name.removeprefix(BODY): tensor for name, tensor in ours.items() if name.startswith(BODY)}


def _weights(content: Any, source: str) -> dict[str, Tensor]:
    weights = content
    if isinstance(content, Mapping):
        for layout in _LAYOUTS:
            if isinstance(content.get(layout), Mapping):
                weights = content[layout]
                break
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{source} has no state dict, but {_summary(content)}")
    named = {str(name): value for name, value in weights.items()}
    if unusable := [name for name in named if len(name) > _MAX_NAME or not name.isprintable()]:
        raise CheckpointError(f"{source} has no state dict: {shown(unusable[0])} is not a tensor's name")
    if others := [name for name, value in named.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{source} has no state dict: {', '.join(others[:3])} are not tensors")
    return _unwrapped(named)


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that DistributedDataParallel, torch.compile and Lightning add."""
    for prefix in _WRAPPERS * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _our_names(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    if MARKER not in weights:
        return weights
    try:
        return from_released(weights)
    except (RuntimeError, IndexError) as error:  # a tensor lacks the dimensions that are rearranged
        raise CheckpointError(f"{source} has a released file's names, but other shapes: {reason(error)}") from error


def _summary(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {', '.join(str(name)[:_MAX_NAME] for name in list(content)[:5]) or 'nothing'}"
    return f"a {type(content).__name__}"
