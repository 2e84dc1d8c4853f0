"""Parts of fused networks around depthwise convolutions, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.operators import registration

SCHEMAS = {
    # GELU of depthwise convolutions of x + shift, which is zero outside the map. bias (C); weight (sum of K * K, the
    # largest C' or more): the positions of one share's kernels after another's, channels last. edges (sum of (K + 1) *
    # (K + 1), as many): sums of shift * weight over the first rows and columns of a kernel, from none to K.
    "multi_scale": "multi_scale_conv2d(Tensor x, Tensor edges, Tensor weight, Tensor bias, "
    "int[] channels, int[] sizes) -> Tensor",
    # gelu(depthwise convolution) * scale + shift. weight (C, 1, K, K) with K odd, bias, scale and shift (C).
    "filtered": "filtered_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, int stride) "
    "-> Tensor",
    # (B, K * K + 1, C): means of K * K bins of a map, and of the map.
    "pooled": "pooled_positions(Tensor x, int size) -> Tensor",
    # scores (B, P, G * C), or the differences (B, P, C) of two groups; bank (G, C, P). (B, P, C) in float32.
    "mixed": "mixed_kernels(Tensor scores, Tensor bank) -> Tensor",
}
"""Schemas by the module with the operator's kernel."""

for _module, _schema in SCHEMAS.items():
    registration.CUDA[_schema.partition("(")[0]] = _module
    registration.define(_schema)


@registration.shapes("multi_scale_conv2d")
def _(x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor, channels: Any, sizes: Any) -> Tensor:
    return registration.last(x)


@registration.shapes("filtered_conv2d")
def _(x: Tensor, weight: Tensor, bias: Tensor, scale: Any, shift: Any, stride: int) -> Tensor:
    batch, channels, *lengths = x.shape
    size = weight.shape[-1]
    lengths = [(length + size // 2 * 2 - size) // stride + 1 for length in lengths]
    return torch.empty(batch, channels, *lengths, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@registration.shapes("pooled_positions")
def _(x: Tensor, size: int) -> Tensor:
    return x.new_empty(x.shape[0], size * size + 1, x.shape[1])


@registration.shapes("mixed_kernels")
def _(scores: Tensor, bank: Tensor) -> Tensor:
    return scores.new_empty(scores.shape[0], bank.shape[2], bank.shape[1], dtype=torch.float32)


multi_scale_conv2d: Callable[..., Tensor] = torch.ops.transxnet.multi_scale_conv2d.default
filtered_conv2d: Callable[..., Tensor] = torch.ops.transxnet.filtered_conv2d.default
pooled_positions: Callable[..., Tensor] = torch.ops.transxnet.pooled_positions.default
mixed_kernels: Callable[..., Tensor] = torch.ops.transxnet.mixed_kernels.default
