"""Reading checkpoints without executing code or trusting the sizes that a file states."""

from __future__ import annotations

import functools
import logging
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
from transxnet.checkpoints.fitting import sizes_of
from transxnet.checkpoints.hub_config import (
    HUB_CONFIG,
    HubConfig,
    contradiction,
    read_dense_hub_config,
    read_hub_config,
)
from transxnet.checkpoints.layouts import find_weights
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

# In a run folder of ours, or a folder exported by timm.
_IN_HUB_FOLDERS = ("model.safetensors", "pytorch_model.bin")
IN_FOLDERS = ("weights.safetensors", *_IN_HUB_FOLDERS)
"""Names of the files that a folder's weights are read from, in order."""

_LOG = logging.getLogger("transxnet")
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
        described_in: The file with the description.
    """

    source: str
    state_dict: dict[str, Tensor]
    architecture: str = ""
    config: TransXNetConfig | None = None
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    described_in: str = ""


Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint
"""A file, a run folder, a URL, a state dict, or what was read from one of them."""


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
        read = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, size)
        return _with_hub_config(read, path)
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
            path = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path / IN_FOLDERS[0])
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
    return Checkpoint(source, weights, architecture, config, preprocessing, head, source)


def _with_hub_config(read: Checkpoint, path: Path) -> Checkpoint:
    """A checkpoint from a folder of the Hub, with the description in ``config.json``."""
    beside = path.with_name(HUB_CONFIG)
    if path.name not in _IN_HUB_FOLDERS or not beside.is_file():
        return read
    source, found, body = str(beside), None, read.state_dict
    if sizes_of(body)[0] and not read.head:
        found = read_hub_config(beside, body)
    elif body := _body(body):
        found = read_dense_hub_config(beside)
    if found is None:
        return read
    check_depths(found.config.to_dict(), body, source)
    check_config(found.config, body, source, classifier=not found.head)
    with reading_metadata(source):
        if not found.head:
            found = replace(found, pretrained_cfg=_checked_cfg(found.pretrained_cfg, found.config) | _origin(found))
    if read.config is not None:
        own = HubConfig(read.architecture, read.config, read.pretrained_cfg, read.head)
        if difference := contradiction(own, found):
            raise CheckpointError(
                f"{path} and {source} contradict each other: {difference}; correct or remove the latter"
            )
    cfg = found.pretrained_cfg | read.pretrained_cfg
    read = replace(read, architecture=found.architecture, config=found.config, pretrained_cfg=cfg, head=found.head)
    return replace(read, described_in=source)


def _origin(found: HubConfig) -> dict[str, Any]:
    """Licence and origin that the file states; None where it states none, since those of released weights are others'.

    Raises:
        ConfigError: If one is not text.
    """
    given = {name: found.pretrained_cfg.get(name) for name in ("license", "origin_url")}
    return {name: None if value is None else text(name, value) for name, value in given.items()}


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
    weights, left = find_weights(content, source)
    if left:
        _report_left_out(source, len(left), ", ".join(left[:3]))
    return weights


@functools.cache  # once for each file, however often it is read
def _report_left_out(source: str, count: int, names: str) -> None:
    entries = "1 entry that is" if count == 1 else f"{count:,} entries that are"
    _LOG.warning("%s: left out %s not the network's: %s%s", source, entries, names, ", ..." if count > 3 else "")


def _our_names(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    if MARKER not in weights:
        return weights
    try:
        return from_released(weights)
    except (RuntimeError, IndexError) as error:  # a tensor lacks the dimensions that are rearranged
        raise CheckpointError(f"{source} has a released file's names, but other shapes: {reason(error)}") from error
