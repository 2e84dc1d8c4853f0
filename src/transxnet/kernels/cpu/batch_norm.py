"""Batch normalisation in training, alone or combined with GELU, and its gradients."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from transxnet.kernels.cpu import layouts
from transxnet.kernels.cpu.build import library

_GELU = {"none": 0, "before": 1, "after": 2}  # as in batch_norm.h


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Normalise with batch statistics; arguments as for the operator, float32.

    Returns:
        The map, channels last in memory; the batch's means and reciprocal deviations, (2, C), float64; and the new
        running means and variances, (C).
    """
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.contiguous(), bias.contiguous()
    statistics = x.new_empty(2, x.shape[1], dtype=torch.float64)
    running_mean, running_var = running_mean.clone(), running_var.clone()
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _functions().batch_norm_float32(
        ctypes.byref(_layer(x, weight, bias, statistics)), _GELU[gelu], eps, momentum,
        running_mean.data_ptr(), running_var.data_ptr(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, statistics, running_mean, running_var


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, which is empty unless requested, of the weight and of the bias.

    GELU's output is recomputed instead of stored.
    """
    x, gradient = (one.contiguous(memory_format=torch.channels_last) for one in (x, gradient))
    weight, bias = weight.contiguous(), bias.contiguous()
    input_gradient = torch.empty_like(x, memory_format=torch.channels_last) if of_input else x.new_empty(0)
    weight_gradient, bias_gradient = torch.empty_like(weight), torch.empty_like(bias)
    _functions().batch_norm_gradients_float32(
        ctypes.byref(_layer(x, weight, bias, statistics)), _GELU[gelu], gradient.data_ptr(),
        input_gradient.data_ptr() if of_input else None, weight_gradient.data_ptr(), bias_gradient.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return input_gradient, weight_gradient, bias_gradient


def _layer(x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor) -> layouts.BatchNorm:
    channels = x.shape[1]
    means = statistics.data_ptr()
    factors = means + channels * statistics.element_size()
    return layouts.BatchNorm(
        x.numel() // channels, channels, x.data_ptr(), means, factors, weight.data_ptr(), bias.data_ptr()
    )


@functools.cache
def _functions() -> ctypes.CDLL:
    number, real, pointer, layer = ctypes.c_int, ctypes.c_double, ctypes.c_void_p, ctypes.POINTER(layouts.BatchNorm)
    kernels = library()
    kernels.batch_norm_float32.argtypes = (layer, number, real, real, pointer, pointer, pointer, number)
    kernels.batch_norm_gradients_float32.argtypes = (layer, number, *[pointer] * 4, number)
    kernels.batch_norm_float32.restype = kernels.batch_norm_gradients_float32.restype = None
    return kernels
