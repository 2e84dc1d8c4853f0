"""Batch normalisation in training and GELU by our kernels, with gradients."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from transxnet.deploy.native import layouts
from transxnet.deploy.native.build import library
from transxnet.deploy.native.convolution import takes


def normalises(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether there is code for a normalisation of a map: with its own statistics, which are averaged exponentially."""
    averaged = norm.track_running_stats and norm.momentum is not None and norm.affine
    return norm.training and averaged and x.numel() > x.shape[1] and takes(x) and norm.weight.dtype == torch.float32


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, *, activate: bool = False) -> Any:
    """What a normalisation computes in training, of a map or of GELU of it; its running statistics are updated.

    Args:
        norm: One that :func:`normalises` the map.
        x: (B, C, H, W).
        activate: Whether GELU comes first; its result is not kept, but computed again for the gradient.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    apply: Any = _BatchNorm.apply
    out, mean, variance = apply(x, norm.weight, norm.bias, norm.eps, activate)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        running: Any = norm  # with statistics, as normalises() has seen
        running.num_batches_tracked.add_(1)
        running.running_mean.lerp_(mean.to(running.running_mean), norm.momentum)
        running.running_var.lerp_((variance * (count / (count - 1))).to(running.running_var), norm.momentum)
    return out


def gelu(x: Tensor) -> Tensor:
    """GELU of float32 numbers on a CPU, in the same memory format."""
    return _Gelu.apply(x)  # type: ignore[no-any-return]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, activate: bool) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        pixels, channels, threads = x.numel() // len(weight), len(weight), torch.get_num_threads()
        functions = _functions()
        functions["channel_statistics"](
            pixels, channels, x.data_ptr(), activate, mean.data_ptr(), variance.data_ptr(), threads
        )
        factor = (variance + eps).rsqrt()
        out = torch.empty_like(x)
        functions["batch_norm"](_job(x, mean, factor, weight, bias, activate), out.data_ptr(), threads)
        ctx.save_for_backward(x, mean, factor, weight, bias)
        ctx.activate = activate
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, mean, factor, weight, bias = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        _functions()["batch_norm_gradients"](
            _job(x, mean, factor, weight, bias, ctx.activate), gradient.data_ptr(), of_weight.data_ptr(),
            of_bias.data_ptr(), back.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return back, of_weight, of_bias, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = _dense(x)
        out = torch.empty_like(x)
        _functions()["gelu_float32"](x.data_ptr(), out.data_ptr(), x.numel(), torch.get_num_threads())
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        back = torch.empty_like(x)
        _functions()["gelu_gradient_float32"](
            x.data_ptr(), gradient.data_ptr(), back.data_ptr(), x.numel(), torch.get_num_threads()
        )
        return back


def _dense(x: Tensor) -> Tensor:
    """With no gaps in memory."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _job(x: Tensor, mean: Tensor, factor: Tensor, weight: Tensor, bias: Tensor, activate: bool) -> Any:
    addresses = (one.data_ptr() for one in (x, mean, factor, weight, bias))
    return ctypes.byref(layouts.BatchNorm(x.numel() // len(weight), len(weight), *addresses, activate))


@functools.cache
def _functions() -> dict[str, Callable[..., None]]:
    number, count, pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
    found: dict[str, Any] = {}
    for name, takes_these in {
        "channel_statistics": (number, number, pointer, ctypes.c_bool, pointer, pointer, count),
        "batch_norm": (pointer, pointer, count),
        "batch_norm_gradients": (*[pointer] * 5, count),
        "gelu_float32": (pointer, pointer, number, count),
        "gelu_gradient_float32": (pointer, pointer, pointer, number, count),
    }.items():
        found[name] = library()[name]
        found[name].argtypes, found[name].restype = takes_these, None
    return found
