"""Folders of a model repository for NVIDIA Triton Inference Server, around exported ONNX files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from transxnet.errors import ConfigError
from transxnet.files import write_text
from transxnet.inference.description import Description, describe, possible_files
from transxnet.inference.formats import library
from transxnet.text import printable

MAX_BATCH = 32
"""Largest batch that a server makes of requests, in a new configuration."""

MAX_DELAY = 2000
"""Microseconds that a request waits for others to share its batch, in a new configuration."""

MODEL_FILE, CONFIG_FILE, LABELS_FILE = "model.onnx", "config.pbtxt", "labels.txt"

_VERSION = "1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_CONFIG = """\
# Written by transxnet {version}.
name: {name}
backend: "onnxruntime"
max_batch_size: {batch}
{tensors}
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
# On a GPU if the server has one; KIND_CPU keeps it on the CPU.
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
# How images are prepared, each value as JSON.
{parameters}
"""


def model_name(model: nn.Module, name: str | None = None) -> str:
    """Name of a network in a repository, checked before anything is written.

    Args:
        model: The network to export.
        name: Name that clients will call it by; by default, those of the network and its backbone.

    Raises:
        ConfigError: If a name is not fit for a folder and a URL, or the network is more than one file.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"a model's name is up to 100 letters, digits and . _ -, not {name!r}")
    about = describe(model, "onnx", "float32")
    if about.parts:
        raise ConfigError(
            f"{getattr(model, 'title', 'the network')} is not one model to Triton: its files are joined by proposals, "
            "pooling and NMS in Python. Export it with --out, or serve it with `transxnet serve`"
        )
    features = "features" if about.task == "features" else ""
    return name or "_".join(filter(None, (about.head.get("kind"), about.architecture or "network", features)))


def model_path(repository: Path, name: str) -> Path:
    """The ONNX file of a model in a repository."""
    return repository / name / _VERSION / MODEL_FILE


def repository_files(repository: Path, name: str) -> list[Path]:
    """Everything that an export to a repository may write."""
    beside = [repository / name / file for file in (CONFIG_FILE, LABELS_FILE)]
    return [*possible_files(model_path(repository, name), "onnx"), *beside]


def write_configuration(file: Path, description: Description) -> list[Path]:
    """Write the configuration of an exported file, and its classes' names, to the folder of the model.

    Args:
        file: The ONNX file, at its :func:`model_path`.
        description: Its metadata.

    Returns:
        The files that were written.
    """
    folder = file.parents[1]
    labels, config = folder / LABELS_FILE, folder / CONFIG_FILE
    names = description.class_names
    if names:
        write_text(labels, "".join(f"{printable(name)}\n" for name in names))
    else:
        labels.unlink(missing_ok=True)  # of the model that this one replaces
    write_text(config, configuration(folder.name, file, description))  # last: it is for the files before it
    return [labels, config] if names else [config]


def configuration(name: str, file: Path, description: Description) -> str:
    """The configuration, in the text format of Triton's ``ModelConfig``, of an exported ONNX file.

    Args:
        name: Name of the model.
        file: The ONNX file.
        description: Its metadata.
    """
    graph = library("onnx").load_model(str(file)).graph
    labelled = description.task == "classification" and bool(description.class_names)
    tensors = [_tensor("input", value) for value in graph.input]
    tensors += [_tensor("output", value, LABELS_FILE if labelled else "") for value in graph.output]
    parameters = (
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(json.dumps(value))} }} }}"
        for key, value in _parameters(description)
    )
    return _CONFIG.format(
        version=description.version,
        name=_quoted(name),
        batch=MAX_BATCH,
        tensors="\n".join(tensors),
        delay=MAX_DELAY,
        parameters="\n".join(parameters),
    )


def _tensor(role: str, value: Any, labels: str = "") -> str:
    """An input or output; the batch, its first size, is not among ``dims``."""
    sizes = value.type.tensor_type.shape.dim
    dims = ", ".join(str(size.dim_value) if size.HasField("dim_value") else "-1" for size in sizes[1:])
    label = f" label_filename: {_quoted(labels)}" if labels else ""
    return f"{role} [ {{ name: {_quoted(value.name)} data_type: TYPE_FP32 dims: [ {dims} ]{label} }} ]"


def _parameters(description: Description) -> Iterator[tuple[str, Any]]:
    yield "task", description.task
    yield from description.preprocessing.items()
    for name in ("short", "long"):  # bounds of an image's sides
        if description.head:
            yield name, description.head[name]


def _quoted(text: str) -> str:
    """Text as a string of Protocol Buffers' text format, in ASCII."""
    escaped = (
        f"\\{byte:03o}" if not 32 <= byte < 127 or byte in b'"\\' else chr(byte)
        for byte in text.encode("utf-8", "backslashreplace")
    )
    return f'"{"".join(escaped)}"'
