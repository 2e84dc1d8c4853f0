"""Depthwise convolutions by our kernels, with gradients."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transxnet.deploy.native.build import library

KERNEL_SIZES = (1, 3, 5, 7)
"""Sizes of depthwise kernels with stride 1 that there is code for."""


def takes(x: Tensor) -> bool:
    """Whether there is code for a map, and nothing that only records operations is looking on."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return plain and not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def depthwise(x: Tensor, kernels: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Depthwise convolutions, each on its share of the channels, with stride 1 and padded to keep the map's size.

    Args:
        x: (B, C, H, W), float32 on a CPU.
        kernels: (1, C', K, K), or (B, C', K, K): every image its own. The C' add up to C.
        biases: (1, C'), or (B, C') as the kernel.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    parameters = [part for pair in zip(kernels, biases, strict=True) for part in pair]
    return _Depthwise.apply(x, *parameters)  # type: ignore[no-any-return]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        kernels, biases = parameters[::2], parameters[1::2]
        for part, place, kernel, bias in zip(*_shares((x, out), kernels), kernels, biases, strict=True):
            _convolve(part, _laid(kernel), bias.contiguous(), place)
        ctx.save_for_backward(x, *kernels)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, *kernels = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        gradients: list[Tensor | None] = []
        places = [None] * len(kernels) if back is None else _shares((back,), kernels)[0]
        parts = zip(*_shares((x, gradient), kernels), places, kernels, strict=True)
        for index, (part, wanted, place, kernel) in enumerate(parts):
            if place is not None:
                _convolve(wanted, _laid(kernel.flip((2, 3))), kernel.new_zeros(kernel.shape[:2]), place)
            if any(ctx.needs_input_grad[1 + 2 * index : 3 + 2 * index]):
                gradients += _kernel_gradient(part, wanted, kernel)
            else:
                gradients += [None, None]
        return back, *gradients


def _shares(maps: Sequence[Tensor], kernels: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    channels = [kernel.shape[1] for kernel in kernels]
    return [each.split(channels, dim=1) for each in maps]


def _laid(kernel: Tensor) -> Tensor:
    """(n, C, K, K) to (n, K * K, C)."""
    return kernel.flatten(2).transpose(1, 2).contiguous()


@functools.cache
def _functions() -> tuple[Callable[..., None], Callable[..., None]]:
    number, step, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    convolve, gradient = library().depthwise_float32, library().kernel_gradient_float32
    on_map = (pointer, step, step)
    convolve.argtypes = (pointer, *on_map, *on_map, pointer, step, pointer, step, number, number)
    gradient.argtypes = (pointer, *on_map, *on_map, pointer, pointer, number, number)
    convolve.restype = gradient.restype = None
    return convolve, gradient


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, out: Tensor) -> None:
    """Shapes: x and out (B, C, H, W), shares of maps with channels last; kernel (n, K * K, C), bias (n, C)."""
    each = len(kernel) > 1
    _functions()[0](
        _shape(x), x.data_ptr(), *_steps(x), out.data_ptr(), *_steps(out), kernel.data_ptr(), each * kernel[0].numel(),
        bias.data_ptr(), each * bias.shape[1], round(kernel.shape[1] ** 0.5), torch.get_num_threads(),
    )  # fmt: skip


def _kernel_gradient(x: Tensor, gradient: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Of a kernel (n, C, K, K) and its bias (n, C)."""
    size = kernel.shape[-1]
    found = x.new_empty(len(x), size * size, x.shape[1])
    bias = x.new_empty(len(x), x.shape[1])
    _functions()[1](
        _shape(x), x.data_ptr(), *_steps(x), gradient.data_ptr(), *_steps(gradient), found.data_ptr(), bias.data_ptr(),
        size, torch.get_num_threads(),
    )  # fmt: skip
    if len(kernel) == 1:
        found, bias = found.sum(0, keepdim=True), bias.sum(0, keepdim=True)
    return found.transpose(1, 2).reshape(kernel.shape), bias


def _shape(x: Tensor) -> Any:
    batch, channels, height, width = x.shape
    return (ctypes.c_int64 * 4)(batch, height, width, channels)


def _steps(x: Tensor) -> tuple[int, int]:
    """Elements from a pixel to the next, and from an image to the next, of a share of a map with channels last.

    A side of one pixel may have any stride; then another tells.
    """
    sides = ((x.shape[3], x.stride(3)), (x.shape[2], x.stride(2)), (x.shape[0], x.stride(0)))
    return next((stride for size, stride in sides if size > 1), x.shape[1]), x.stride(0)
