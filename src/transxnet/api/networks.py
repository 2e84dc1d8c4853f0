"""Opening a network for evaluation and prediction, whatever it is stored in."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

from transxnet.bounds import ImageSide, checked
from transxnet.checkpoints.reading import Checkpoint as Read
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.dense.create import holds_dense, load_dense
from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import ConfigError
from transxnet.inference.adapters import ExportedNetwork
from transxnet.inference.description import Format
from transxnet.inference.detections import ExportedDetector
from transxnet.inference.precision import Fusion, Precision, for_device
from transxnet.inference.runtimes import is_exported, load_exported
from transxnet.model import TransXNet
from transxnet.zoo import create_model, load_model

TaskName = Literal["classification", "detection", "segmentation"]
Checkpoint = str | os.PathLike[str]


def open_network(
    checkpoint: Checkpoint | None = None,
    *,
    model: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    fuse: Fusion = None,
    precision: Precision = "auto",
    runtime: Format | None = None,
) -> tuple[Any, str]:
    """Open a network, or an exported file that is called in the same way.

    Args:
        checkpoint: A released file, a file or run folder of ours, an exported file, or a URL.
        model: Name of the network; without a checkpoint, its released weights are downloaded.
        image_size: Side in pixels of a classifier's square images, if not the network's own.
        device: PyTorch's name of a device; "auto" for the GPU, if there is one.
        fuse: Fold what can be folded and, on a CPU, use native kernels: a wheel's, or compiled by a C++ compiler;
            "fold" does without these. By default on a GPU only.
        precision: "32", "bf16", or "auto" for bfloat16 on a GPU that has it and float32 elsewhere.
        runtime: Runtime of an exported file, if not the one it was written for.

    Returns:
        The network, and its device. Detectors and segmenters have a ``head_description``. All but exported ones
        have a ``parameter_count``, which is that of the network before it was fused.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If neither a checkpoint nor a model is given, or settings do not go together.
    """
    checked("image_size", image_size, ImageSide | None)
    name = None if checkpoint is None else os.fspath(checkpoint)
    if name and is_exported(name):
        if precision != "auto":
            raise ConfigError("--precision is for checkpoints; an exported file computes in its own")
        if fuse:
            raise ConfigError("--fuse is for checkpoints; an exported file holds a fused network already")
        return _open_exported(name, model, image_size, device, runtime), "cpu"
    if runtime is not None:
        raise ConfigError("--runtime is for files that `transxnet export` wrote; give one as --checkpoint")
    read = read_checkpoint(name) if name else None
    network = (_open_dense(read, model, image_size) if read else None) or _open_classifier(read, model, image_size)
    vars(network)["parameter_count"] = sum(one.numel() for one in network.parameters())  # a fused one has others
    chosen = choose_device(device)
    return for_device(network, chosen, fuse=fuse, precision=precision), chosen


def task_of(network: Any) -> TaskName:
    """The task of a network that :func:`open_network` returned."""
    if not hasattr(network, "head_description"):
        return "classification"
    found: TaskName = network.head_description.task
    return found


def choose_device(name: str) -> str:
    """The device of that name; for "auto" the GPU, if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {name!r} here ({str(error).splitlines()[0]})") from error
    return name


def _open_exported(
    path: str, model: str | None, image_size: int | None, device: str, runtime: Format | None
) -> ExportedNetwork | ExportedDetector:
    if model is not None:
        raise ConfigError(f"{path} describes its network itself; leave --model out")
    if device not in ("auto", "cpu"):
        raise ConfigError("exported files run on the processor here; leave --device out")
    loaded = load_exported(path, runtime)
    task = loaded.description.task
    if task == "features":
        raise ConfigError(f"{path} gives feature maps, no predictions; transxnet.load_exported runs it")
    if task != "classification" and image_size is not None:
        raise ConfigError(f"{path} describes the size of its images itself; leave --image-size out")
    if task == "detection":
        return ExportedDetector(loaded)
    network = ExportedNetwork(loaded)
    if image_size is not None:
        network.pretrained_cfg["input_size"] = _square(image_size, network.pretrained_cfg["input_size"][0])
    return network


def _open_dense(read: Read, model: str | None, image_size: int | None) -> DenseNetwork | None:
    """The detector or segmenter in a checkpoint; None if it holds neither."""
    if not holds_dense(read):
        return None
    for name, value in (("model", model), ("image-size", image_size)):
        if value is not None:
            raise ConfigError(f"{read.source} describes its network itself; leave --{name} out")
    return load_dense(read)


def _open_classifier(checkpoint: Read | None, model: str | None, image_size: int | None) -> TransXNet:
    if model and checkpoint:
        network = create_model(model, checkpoint=checkpoint)
    elif checkpoint:
        network = load_model(checkpoint)
    elif model:
        network = create_model(model, pretrained=True)
    else:
        raise ConfigError("give --checkpoint (a file or a run folder), or --model for its released weights")
    if image_size is not None:
        vars(network)["pretrained_cfg"]["input_size"] = _square(image_size, network.in_chans)
    return network


def _square(side: int, channels: int) -> tuple[int, int, int]:
    """Timm's description of square images."""
    return channels, side, side
