"""Batch normalisation in training, and GELU, alone or one after the other, by our kernels, with gradients."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from transxnet.deploy.native.build import library
from transxnet.deploy.native.convolution import takes

_PLACES = {None: 0, "before": 1, "after": 2}


def is_gelu(module: nn.Module) -> bool:
    """Whether a module is the exact GELU, of which there is code."""
    return isinstance(module, nn.GELU) and module.approximate == "none"


def takes_dense(x: Tensor) -> bool:
    """Whether there is code for GELU of a tensor: its numbers fill its memory, in any order of the dimensions."""
    return takes(x) and (x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)))


def takes_batch(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether there is code for a layer and a map: the layer learns its running statistics, channels are last."""
    if not (takes(x) and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return False
    learns = norm.training and norm.track_running_stats and norm.momentum is not None
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        learns
        and x.numel() > x.shape[1] == norm.num_features
        and all(part is not None and part.dtype == torch.float32 and part.is_contiguous() for part in parts)
    )


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, gelu: Literal["before", "after"] | None = None) -> Tensor:
    """A layer's batch normalisation of a map that :func:`takes_batch` takes, with GELU before or after it if asked for.

    GELU's output is not kept for the gradients, but computed again.

    Shapes: (B, C, H, W) to the same.
    """
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _BatchNorm.apply(x, norm.weight, norm.bias, norm, _PLACES[gelu])  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """GELU of a tensor that :func:`takes_dense` takes."""
    return _Gelu.apply(x)  # type: ignore[no-any-return]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: Any, place: int) -> Tensor:
        statistics = x.new_empty(2, x.shape[1], dtype=torch.float64)
        out = torch.empty_like(x)
        _functions().batch_norm_float32(
            ctypes.byref(_layer(x, weight, bias, statistics)), place, norm.eps, norm.momentum,
            norm.running_mean.data_ptr(), norm.running_var.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.place = place
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, bias, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_gradient, bias_gradient = torch.empty_like(weight), torch.empty_like(bias)
        _functions().batch_norm_gradients_float32(
            ctypes.byref(_layer(x, weight, bias, statistics)), ctx.place, gradient.data_ptr(),
            None if back is None else back.data_ptr(), weight_gradient.data_ptr(), bias_gradient.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return back, weight_gradient, bias_gradient, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        _functions().gelu_float32(x.numel(), x.data_ptr(), out.data_ptr(), torch.get_num_threads())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        gradient = gradient.contiguous(memory_format=layout)
        back = torch.empty_like(x)
        _functions().gelu_gradient_float32(
            x.numel(), x.data_ptr(), gradient.data_ptr(), back.data_ptr(), torch.get_num_threads()
        )
        return back


class _Layer(ctypes.Structure):
    """The structure of batch_norm.h."""

    _fields_ = [
        ("rows", ctypes.c_int64), ("channels", ctypes.c_int64), ("in", ctypes.c_void_p), ("means", ctypes.c_void_p),
        ("factors", ctypes.c_void_p), ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    ]  # fmt: skip


def _layer(x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor) -> _Layer:
    channels = x.shape[1]
    means, factors = statistics
    places = [part.data_ptr() for part in (x, means, factors, weight, bias)]
    return _Layer(x.numel() // channels, channels, *places)


@functools.cache
def _functions() -> ctypes.CDLL:
    number, size, real, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    layer = ctypes.POINTER(_Layer)
    kernels = library()
    kernels.batch_norm_float32.argtypes = (layer, number, real, real, pointer, pointer, pointer, number)
    kernels.batch_norm_gradients_float32.argtypes = (layer, number, *[pointer] * 4, number)
    kernels.gelu_float32.argtypes = (size, pointer, pointer, number)
    kernels.gelu_gradient_float32.argtypes = (size, pointer, pointer, pointer, number)
    for name in ("batch_norm_float32", "batch_norm_gradients_float32", "gelu_float32", "gelu_gradient_float32"):
        getattr(kernels, name).restype = None
    return kernels
