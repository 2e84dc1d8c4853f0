"""Ways to run a network, by name. Another one is a function and an entry in :data:`MODES`."""

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
"""From a network of its own, in evaluation mode, and an example batch (B, C, H, W) on the same
device to something that is called with such batches."""


def eager(model: nn.Module, example: Tensor) -> Run:
    """As PyTorch runs it by itself."""
    return model


def channels_last(model: nn.Module, example: Tensor) -> Run:
    """With the channels last in memory, the batch's conversion included."""
    model = model.to(memory_format=torch.channels_last)
    return lambda images: model(images.contiguous(memory_format=torch.channels_last))


def compiled(model: nn.Module, example: Tensor) -> Run:
    """With torch.compile: our networks block by block, as in training, others as a whole."""
    if isinstance(model, Trunk):
        for stage in model.stage_list:
            for block in stage.blocks:
                block.compile(dynamic=False)
    else:
        model.compile(dynamic=False)
    return model


def fused(model: nn.Module, example: Tensor) -> Run:
    """Our networks with everything folded that can be, in PyTorch.

    Raises:
        ConfigError: If there is nothing of this package in the network.
    """
    return fuse(model)


def native(model: nn.Module, example: Tensor) -> Run:
    """With stages on a CPU by kernels of our own, float32.

    Raises:
        ConfigError: If there is nothing of this package in the network, or no C++ compiler.
    """
    return channels_last(fuse(model, native=True), example)


def onnx(model: nn.Module, example: Tensor) -> Run:
    """Our networks exported to ONNX and run by ONNX Runtime, batches as arrays that PyTorch shares.

    Raises:
        ConfigError: If the network cannot be exported, or a library is missing.
    """
    return _exported(model, "onnx")


def openvino(model: nn.Module, example: Tensor) -> Run:
    """The same with OpenVINO, in float32."""
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
