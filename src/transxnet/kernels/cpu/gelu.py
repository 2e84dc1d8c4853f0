"""GELU and its gradient."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from transxnet.kernels.cpu.build import library


def is_dense(x: Tensor) -> bool:
    """Whether a tensor is contiguous in one of the usual memory formats."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def forward(x: Tensor) -> Tensor:
    """GELU of a tensor, float32."""
    x = x if is_dense(x) else x.contiguous()
    out = torch.empty_like(x)
    _functions().gelu_float32(x.numel(), x.data_ptr(), out.data_ptr(), torch.get_num_threads())
    return out


def backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the input."""
    x = x if is_dense(x) else x.contiguous()
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    gradient = gradient.contiguous(memory_format=layout)
    back = torch.empty_like(x)
    _functions().gelu_gradient_float32(
        x.numel(), x.data_ptr(), gradient.data_ptr(), back.data_ptr(), torch.get_num_threads()
    )
    return back


@functools.cache
def _functions() -> ctypes.CDLL:
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    kernels = library()
    kernels.gelu_float32.argtypes = (size, pointer, pointer, ctypes.c_int)
    kernels.gelu_gradient_float32.argtypes = (size, pointer, pointer, pointer, ctypes.c_int)
    kernels.gelu_float32.restype = kernels.gelu_gradient_float32.restype = None
    return kernels
