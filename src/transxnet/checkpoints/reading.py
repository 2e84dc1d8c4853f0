"""Reading weights without executing anything."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import pickletools
import struct
import urllib.error
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import safetensors
import torch
from timm.models._hub import download_cached_file
from torch import Tensor

from transxnet.checkpoints.released import MARKER, from_released
from transxnet.config import TransXNetConfig
from transxnet.errors import CheckpointError

Source = str | os.PathLike[str] | Mapping[str, Any]

METADATA_KEY = "transxnet"
"""Where our files hold architecture, configuration and preprocessing, as JSON."""

# Averaged weights first: they are what an author evaluates.
_LAYOUTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# A run folder of ours, or a folder that timm exported.
_IN_FOLDERS = ("weights.safetensors", "model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("module.", "_orig_mod.", "model.")


# What PyTorch's readers raise on damaged files.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    struct.error,
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names, and what the file says about itself.

    Attributes:
        source: What was read, for messages.
        state_dict: The weights.
        architecture: The network's registered name; empty if the file does not say.
        config: Its configuration, if the file has it.
        pretrained_cfg: timm's description (preprocessing, class names), if the file has it.
        head: What stands on the backbone, if the file is a detector's or segmenter's and says so.
    """

    source: str
    state_dict: dict[str, Tensor]
    architecture: str = ""
    config: TransXNetConfig | None = None
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: Source, cache_dir: str | Path | None = None) -> Checkpoint:
    """Read a released file, one of ours, a run folder, a URL or a state dict.

    Pickles are read with ``weights_only=True``; beside tensors and plain values only an
    ``argparse.Namespace``, as in the released files, is admitted. The weights may be the whole
    file or stand under ``state_dict``, ``model``, ``state_dict_ema`` or ``model_ema``; averaged
    weights are preferred.

    Args:
        source: A path, a URL or a mapping.
        cache_dir: Where to keep a download, if not where PyTorch does.

    Raises:
        CheckpointError: If nothing is there, the file is damaged, wants to run code, or holds no
            weights, or a URL cannot be reached.
    """
    if isinstance(source, Mapping):
        return Checkpoint("the state dict", _our_names(_weights(source, "the state dict")))
    name = os.fspath(source)
    path = _download(name, cache_dir) if "://" in name else Path(name).expanduser()
    if path.is_dir():
        path = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), path / _IN_FOLDERS[0])
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.stat().st_size == 0:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes): copy or download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _unpickle(path)
    weights = _our_names(_weights(content, str(path)))
    return _described(str(path), weights, content.get(METADATA_KEY) if isinstance(content, Mapping) else None)


def _download(url: str, cache_dir: str | Path | None) -> Path:
    try:
        return Path(download_cached_file(url, progress=True, cache_dir=cache_dir))
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"could not download {url} ({reason}); without a network, fetch the file on another machine "
            "and give its path as the checkpoint"
        ) from error


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    weights = _our_names(_weights(tensors, str(path)))
    return _described(str(path), weights, metadata.get(METADATA_KEY))


def _described(source: str, weights: dict[str, Tensor], description: str | None) -> Checkpoint:
    if description is None:
        return Checkpoint(source, weights)
    try:
        about = json.loads(description)
        config = TransXNetConfig.from_dict(about["config"])
        return Checkpoint(
            source, weights, about["architecture"], config, about["pretrained_cfg"], dict(about.get("head") or {})
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its description of the network cannot be read ({error})") from error


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := _unsafe_globals(path):
            raise CheckpointError(
                f"{path} is a pickle that wants to run code of its own ({', '.join(wanted)}), which is never done. "
                "If you trust it, load it with torch.load yourself and save the bare state dict"
            ) from error
        raise _damaged(path, error) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _unsafe_globals(path: Path) -> list[str]:
    """Names of the functions and classes that a pickle wants and that weights do not need."""
    try:
        if zipfile.is_zipfile(path):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return list(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        with path.open("rb") as file:  # PyTorch's old format is several pickles in a row; listed, never run
            wanted = dict.fromkeys(_wanted(file))
        return [name for name in wanted if not name.startswith(("torch.", "collections.", "argparse."))]
    except (*_DAMAGE, pickle.UnpicklingError):
        pass  # damaged: there is nothing to name then
    return []


def _wanted(file: BufferedReader) -> Iterator[str]:
    """What the pickles at the start of a file look up, as module.name."""
    texts: list[str] = []
    while file.peek(1)[:1] == b"\x80":  # how a pickle begins
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = "" if isinstance(error, pickle.UnpicklingError) else f" [{str(error).partition(chr(10))[0][:120]}]"
    return CheckpointError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated or not a checkpoint; download or copy it again{reason}"
    )


def _weights(content: Any, source: str) -> dict[str, Tensor]:
    weights = content
    if isinstance(content, Mapping):
        for layout in _LAYOUTS:
            if isinstance(content.get(layout), Mapping):
                weights = content[layout]
                break
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{source} holds no state dict, but {_shape_of(content)}")
    strange = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{source} holds no state dict: {', '.join(strange[:3])} are not tensors")
    return _unwrapped({str(name): tensor for name, tensor in weights.items()})


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that DistributedDataParallel, torch.compile and Lightning add."""
    for prefix in _WRAPPERS * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return from_released(weights) if MARKER in weights else weights


def _shape_of(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"a {type(content).__name__}"
