"""Modes of running a network, by name. To add one, write a function and register it in :data:`MODES`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.errors import ConfigError
from transxnet.inference.description import Format
from transxnet.inference.export import SUFFIXES, export
from transxnet.inference.fuse import fuse
from transxnet.inference.runtimes import load_exported
from transxnet.model import Trunk

Run = Callable[[Tensor], Any]
Mode = Callable[[nn.Module, Tensor], Run]
"""Maps a network in evaluation mode, which it may change, and an example batch (B, C, H, W) on the same
device to a callable for such batches. The network's weights are converted to the batch's type."""

_RECOMPILATIONS = 256  # of one function in a process: each mode, type and size is compiled, and PyTorch's limit is 8


def eager(model: nn.Module, example: Tensor) -> Run:
    """Eager PyTorch."""
    return model.to(example.dtype)


def channels_last(model: nn.Module, example: Tensor) -> Run:
    """Channels-last memory format, including the conversion of the batch."""
    model = model.to(example.dtype).to(memory_format=torch.channels_last)
    return lambda images: model(images.contiguous(memory_format=torch.channels_last))


def compiled(model: nn.Module, example: Tensor) -> Run:
    """torch.compile; our networks as one graph, others as the compiler divides them."""
    return _compile(model.to(example.dtype))


def cuda_graph(model: nn.Module, example: Tensor) -> Run:
    """torch.compile with CUDA graphs, which launch all kernels of a pass at once.

    Raises:
        ConfigError: If the device is not a CUDA device.
    """
    _check_cuda("cuda_graph", example)
    return _compile(model.to(example.dtype), mode="reduce-overhead")


def fused(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused, in PyTorch; on CUDA devices with the channels last.

    Raises:
        ConfigError: If the network has no part of this package.
    """
    if example.device.type != "cuda":
        return fuse(model).to(example.dtype)
    return channels_last(fuse(model, channels_last=True), example)


def fused_compiled(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused and compiled as one graph; errors are those of :func:`fused`."""
    return _compile(fuse(model).to(example.dtype))


def fused_cuda_graph(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused and compiled with CUDA graphs; errors are those of :func:`fused` and :func:`cuda_graph`."""
    _check_cuda("fused_cuda_graph", example)
    return _compile(fuse(model, channels_last=True).to(example.dtype), mode="reduce-overhead")


def _compile(model: nn.Module, **settings: Any) -> Run:
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILATIONS)
    model.compile(dynamic=False, fullgraph=isinstance(model, Trunk), **settings)
    return model


def _check_cuda(mode: str, example: Tensor) -> None:
    if example.device.type != "cuda":
        raise ConfigError(f"mode {mode} needs a CUDA device, not {example.device.type}; fused_compiled runs anywhere")


def native(model: nn.Module, example: Tensor) -> Run:
    """Our networks fused, with native kernels for CPUs.

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
    return _exported(model, "onnx", example)


def openvino(model: nn.Module, example: Tensor) -> Run:
    """Our networks exported to OpenVINO, in float32."""
    return _exported(model, "openvino", example)


def _exported(model: nn.Module, form: Format, example: Tensor) -> Run:
    if example.dtype != torch.float32:
        raise ConfigError(f"mode {form} is measured in float32; leave bf16_weights out")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network").with_suffix(SUFFIXES[form])
        export(model, path, format=form, check=False)
        runtime = load_exported(path, form)
        return lambda images: runtime.run(images.numpy())


MODES: dict[str, Mode] = {
    "eager": eager,
    "channels_last": channels_last,
    "compiled": compiled,
    "cuda_graph": cuda_graph,
    "fused": fused,
    "fused_compiled": fused_compiled,
    "fused_cuda_graph": fused_cuda_graph,
    "native": native,
    "onnx": onnx,
    "openvino": openvino,
}
