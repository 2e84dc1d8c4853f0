"""Depthwise convolutions and their gradients."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.cpu.build import library

KERNEL_SIZES = (1, 3, 5, 7)
"""Supported kernel sizes."""


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, channels: Sequence[int], sizes: Sequence[int], identity: bool
) -> Tensor:
    """Convolve each share of the channels; arguments as for the operator, float32.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    if len(weight) not in (1, len(x)):
        raise ValueError(f"there are kernels for {len(weight)} images, but {len(x)} images")
    x, weight = x.contiguous(memory_format=torch.channels_last), weight.flatten(1).contiguous()
    out = torch.empty_like(x, memory_format=torch.channels_last)
    bias = weight.new_zeros(len(weight), x.shape[1]) if bias is None else bias.contiguous()
    parts = zip(
        _shares(x, channels), _shares(out, channels), _laid_out(weight, channels, sizes, identity),
        _shares(bias, channels), strict=True,
    )  # fmt: skip
    for share, result, kernel, offset in parts:
        _convolve(share, kernel, offset, result)
    return out


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, channels: Sequence[int], sizes: Sequence[int], identity: bool,
    of_input: bool, of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the input, (B, C, H, W), of the weight and of the bias; empty unless requested."""
    x, gradient = (one.contiguous(memory_format=torch.channels_last) for one in (x, gradient))
    gradients, shape, weight = _shares(gradient, channels), weight.shape, weight.flatten(1).contiguous()
    input_gradient = weight_gradient = bias_gradient = x.new_empty(0)
    if of_input:
        input_gradient = torch.empty_like(x, memory_format=torch.channels_last)
        zeros = _shares(weight.new_zeros(len(weight), x.shape[1]), channels)
        kernels = _laid_out(weight, channels, sizes, identity)
        for share, result, kernel, zero in zip(
            gradients, _shares(input_gradient, channels), kernels, zeros, strict=True
        ):
            _convolve(share, kernel.flip(1), zero, result)
    if of_parameters:
        weight_gradient, bias_gradient = torch.empty_like(weight), x.new_empty(len(weight), x.shape[1])
        shares = zip(
            _shares(x, channels), gradients, _kernels(weight_gradient, channels, sizes),
            _shares(bias_gradient, channels), strict=True,
        )  # fmt: skip
        for share, out_gradient, kernel, offset in shares:
            _kernel_gradient(share, out_gradient, kernel, offset)
        weight_gradient = weight_gradient.view(shape)
    return input_gradient, weight_gradient, bias_gradient


def _shares(x: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """The parts of a tensor along its second dimension."""
    return (x,) if len(counts) == 1 and x.shape[1] == counts[0] else x.split(counts, 1)


def _kernels(weight: Tensor, channels: Sequence[int], sizes: Sequence[int]) -> Iterator[Tensor]:
    """Views (n, C', K * K) of the kernels of each share in a weight (n, C * K * K over all shares)."""
    counts = [count * size * size for count, size in zip(channels, sizes, strict=True)]
    for part, count in zip(_shares(weight, counts), channels, strict=True):
        yield part.view(len(part), count, -1)


def _laid_out(weight: Tensor, channels: Sequence[int], sizes: Sequence[int], identity: bool) -> Iterator[Tensor]:
    """The kernels (n, K * K, C') in the layout of the C++ code, with the identity added if requested."""
    for kernel in _kernels(weight, channels, sizes):
        images, count, pixels = kernel.shape
        laid = kernel.new_empty(images, pixels, count).copy_(kernel.transpose(1, 2))
        if identity:
            laid[:, pixels // 2] += 1
        yield laid


@functools.cache
def _functions() -> tuple[Callable[..., None], Callable[..., None]]:
    number, step, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    kernels = library()
    convolve, gradient = kernels.depthwise_float32, kernels.kernel_gradient_float32
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
        bias.data_ptr(), each * bias.stride(0), round(kernel.shape[1] ** 0.5), torch.get_num_threads(),
    )  # fmt: skip


def _kernel_gradient(x: Tensor, gradient: Tensor, kernel: Tensor, bias: Tensor) -> None:
    """Write the gradients to a kernel (n, C, K * K) and its bias (n, C)."""
    pixels = kernel.shape[2]
    found, offsets = x.new_empty(len(x), pixels, x.shape[1]), x.new_empty(len(x), x.shape[1])
    _functions()[1](
        _shape(x), x.data_ptr(), *_steps(x), gradient.data_ptr(), *_steps(gradient), found.data_ptr(),
        offsets.data_ptr(), round(pixels**0.5), torch.get_num_threads(),
    )  # fmt: skip
    if len(kernel) == 1:
        found, offsets = found.sum(0, keepdim=True), offsets.sum(0, keepdim=True)
    kernel.copy_(found.transpose(1, 2))
    bias.copy_(offsets)


def _shape(x: Tensor) -> Any:
    batch, channels, height, width = x.shape
    return (ctypes.c_int64 * 4)(batch, height, width, channels)


def _steps(x: Tensor) -> tuple[int, int]:
    """Strides of pixels and images, in elements, of a share of a channels-last map.

    A side of one pixel may have any stride; another side is used then.
    """
    sides = ((x.shape[3], x.stride(3)), (x.shape[2], x.stride(2)), (x.shape[0], x.stride(0)))
    return next((stride for size, stride in sides if size > 1), x.shape[1]), x.stride(0)
