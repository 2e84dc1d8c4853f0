"""A layer scale in training, whose gradients are a kernel of our own."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transxnet.deploy.native.build import library
from transxnet.deploy.native.convolution import takes


def takes_scale(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether there is code for a map, which has its channels last, and its scale."""
    plain = takes(x) and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return plain and all(part.dtype == x.dtype and part.numel() == x.shape[1] for part in (weight, bias))


def scaled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A scale and shift, x * weight + bias, of what :func:`takes_scale` takes.

    Shapes: x (B, C, H, W), weight and bias (C, 1, 1); returns (B, C, H, W).
    """
    return _Scale.apply(x, weight, bias)  # type: ignore[no-any-return]


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addcmul(bias, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        flat = weight.contiguous()
        of_weight, of_bias = torch.empty_like(flat), torch.empty_like(flat)
        job = _Gradients(
            x.numel() // x.shape[1], x.shape[1], x.data_ptr(), gradient.data_ptr(), flat.data_ptr(),
            None if back is None else back.data_ptr(), of_weight.data_ptr(), of_bias.data_ptr(),
        )  # fmt: skip
        _function()(ctypes.byref(job), torch.get_num_threads())
        return back, of_weight, of_bias


class _Gradients(ctypes.Structure):
    """The structure of layer_scale.h."""

    _fields_ = [
        ("rows", ctypes.c_int64), ("channels", ctypes.c_int64), ("in", ctypes.c_void_p), ("gradient", ctypes.c_void_p),
        ("weight", ctypes.c_void_p), ("in_gradient", ctypes.c_void_p), ("weight_gradient", ctypes.c_void_p),
        ("bias_gradient", ctypes.c_void_p),
    ]  # fmt: skip


@functools.cache
def _function() -> Callable[..., None]:
    function = library().scale_gradients_float32
    function.argtypes, function.restype = (ctypes.POINTER(_Gradients), ctypes.c_int), None
    return function
