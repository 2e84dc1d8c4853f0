"""Layer scale by PyTorch's own operation, which is as fast, and native gradients."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from transxnet.kernels.cpu import layouts
from transxnet.kernels.cpu.build import library


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scale and shift; arguments as for the operator, float32. Returns (B, C, H, W), channels last in memory."""
    if not weight.numel() == bias.numel() == x.shape[1]:
        raise ValueError(f"a scale of {weight.numel()} channels does not fit a map of shape {tuple(x.shape)}")
    out = torch.empty_like(x, memory_format=torch.channels_last)
    return torch.addcmul(bias, x, weight, out=out)


def backward(gradient: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, which is empty unless requested, of the weight and of the bias."""
    x, gradient = (one.contiguous(memory_format=torch.channels_last) for one in (x, gradient))
    input_gradient = torch.empty_like(x, memory_format=torch.channels_last) if of_input else x.new_empty(0)
    weight = weight.contiguous()
    weight_gradient, bias_gradient = torch.empty_like(weight), torch.empty_like(weight)
    job = layouts.ScaleGradients(
        x.numel() // x.shape[1], x.shape[1], x.data_ptr(), gradient.data_ptr(), weight.data_ptr(),
        input_gradient.data_ptr() if of_input else None, weight_gradient.data_ptr(), bias_gradient.data_ptr(),
    )  # fmt: skip
    _function()(ctypes.byref(job), torch.get_num_threads())
    return input_gradient, weight_gradient, bias_gradient


@functools.cache
def _function() -> Callable[..., None]:
    function = library().scale_gradients_float32
    function.argtypes, function.restype = (ctypes.POINTER(layouts.ScaleGradients), ctypes.c_int), None
    return function
