"""Modes of running a network, by name. To add one, write a function and register it in :data:`MODES`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.inference.description import Format
from transxnet.inference.export import SUFFIXES, export
from transxnet.inference.fuse import fuse
from transxnet.inference.runtimes import load_exported
from transxnet.model import Trunk

Run = Callable[[Tensor], Any]
Mode = Callable[[nn.Module, Tensor], Run]
"""Maps a network in evaluation mode, which it may change, and an example batch (B, C, H, W) on the same
device to a callable for such batches."""


def eager(model: nn.Module, example: Tensor) -> Run:
    """Eager PyTorch."""
    return model


def channels_last(model: nn.Module, example: Tensor) -> Run:
    """Channels-last memory format, including the conversion of the batch."""
    model = model.to(memory_format=torch.channels_last)
    return lambda images: model(images.contiguous(memory_format=torch.channels_last))


def compiled(model: nn.Module, example: Tensor) -> Run:
    """torch.compile: our networks block by block, as in training, others as a whole."""
    if isinstance(model, Trunk):
        for stage in model.stage_list:
            for block in stage.blocks:
                block.compile(dynamic=False)
    else:
        model.compile(dynamic=False)
    return model


def fused(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused, in PyTorch.

    Raises:
        ConfigError: If the network has no part of this package.
    """
    return fuse(model)


def native(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused, with native kernels for CPUs, in float32.

    Raises:
        ConfigError: If the network has no part of this package, or there are neither compiled kernels nor a C++
            compiler.
    """
    return channels_last(fuse(model, native=True), example)


def onnx(model: nn.Module, example: Tensor) -> Run:
    """Our networks exported to ONNX and run by ONNX Runtime, on arrays that share PyTorch's memory.

    Raises:
        ConfigError: If the network cannot be exported, or a library is missing.
    """
    return _exported(model, "onnx")


def openvino(model: nn.Module, example: Tensor) -> Run:
    """Our networks exported to OpenVINO, in float32."""
    return _exported(model, "openvino")


def _exported(model: nn.Module, form: Format) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network").with_suffix(SUFFIXES[form])
        export(model, path, format=form, check=False)
        runtime = load_exported(path, form)
        return lambda images: runtime.run(images.numpy())


MODES: dict[str, Mode] = {
    "eager": eager,
    "channels_last": channels_last,
    "compiled": compiled,
    "fused": fused,
    "native": native,
    "onnx": onnx,
    "openvino": openvino,
}
