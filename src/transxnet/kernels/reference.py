"""Reference implementations of the operators in PyTorch, for all devices and types."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 2 * 2**20}
"""Bytes of attention scores computed at a time with a factored position bias, by device; a CPU's cache size."""

DEFAULT_CHUNK_BYTES = 64 * 2**20
"""The same for other devices."""


class FactoredBias(NamedTuple):
    """A resized bias in factors: B' = rows @ columns^T.

    Bicubic resizing is linear in each axis: B' = R B C^T, with matrices R (N' x N) and C (M' x M) that
    depend only on the sizes.

    Attributes:
        rows: R B, (1, heads, N', M).
        columns: C, (M', M).
    """

    rows: Tensor
    columns: Tensor

    def multiplied(self) -> Tensor:
        """The whole bias (1, heads, N', M'), in the table's precision even under autocast, as with interpolation."""
        device = self.rows.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            return self.rows @ self.columns.T


Bias = Tensor | FactoredBias


def depthwise_conv2d(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], identity: bool = False
) -> Tensor:
    """Implement :func:`transxnet.kernels.depthwise_conv2d`."""
    if len(weights) == 1:
        y = _convolve(x, weights[0], biases[0])
    else:
        parts = x.split([len(weight) for weight in weights], dim=1)
        y = torch.cat([_convolve(*each) for each in zip(parts, weights, biases, strict=True)], dim=1)
    return x + y if identity else y


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=_side(weight) // 2, groups=weight.shape[0])


def _side(kernel: Tensor) -> int:
    side = kernel.shape[-1]
    # torch.jit.trace makes it a tensor, which torch 2.9 refuses as padding; torch.fx records it.
    return int(side) if torch.jit.is_tracing() else side  # type: ignore[attr-defined, no-untyped-call]


def dynamic_depthwise_conv2d(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Implement :func:`transxnet.kernels.dynamic_depthwise_conv2d`."""
    batch, channels, height, width = x.shape
    size = _side(kernel)
    # One group for each channel of each image applies a separate kernel to each image.
    y = F.conv2d(
        x.reshape(1, batch * channels, height, width),
        kernel.reshape(batch * channels, 1, size, size),
        bias.reshape(batch * channels),
        padding=size // 2,
        groups=batch * channels,
    )
    return y.reshape(batch, channels, height, width)


def attention(q: Tensor, kv: Tensor, position_bias: Bias | None, heads: int, scale: float | None = None) -> Tensor:
    """Implement :func:`transxnet.kernels.attention`."""
    batch, channels, height, width = q.shape
    tokens = (batch, heads, channels // heads, -1)
    k, v = kv.chunk(2, dim=1)  # each (B, C, h, w)
    q, k, v = (x.reshape(tokens).transpose(2, 3) for x in (q, k, v))  # (B, heads, N or M, d)
    z = attend(q, k, v, position_bias, scale)
    return z.transpose(2, 3).reshape(batch, channels, height, width)


def attend(q: Tensor, k: Tensor, v: Tensor, position_bias: Bias | None = None, scale: float | None = None) -> Tensor:
    """Attention with an optional bias; in float32 where autocast would use float16.

    The scores are sums over a head's channels before scaling, and exceed float16's maximum of 65,504 in
    training; bfloat16 has float32's range.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, M, d).
        v: (B, heads, M, d).
        position_bias: (1, heads, N, M). A factored one is multiplied in chunks of :data:`CHUNK_BYTES`,
            which are recomputed in the backward pass.
        scale: Factor of the products of q and k; d ** -0.5 by default.

    Returns:
        (B, heads, N, d).
    """
    if isinstance(position_bias, FactoredBias):
        return _attend_in_chunks(q, k, v, position_bias, scale)
    # PyTorch's fast kernels need contiguous channels of a token, and a mask without gradient.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if position_bias is not None and not torch.is_grad_enabled():
        position_bias = position_bias.detach()
    if q.dtype == torch.float16 and torch.is_autocast_enabled(q.device.type):
        with torch.autocast(q.device.type, enabled=False):
            bias = None if position_bias is None else position_bias.float()
            z = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias, scale=scale)
        return z.to(q.dtype)
    bias = None if position_bias is None else position_bias.to(q.dtype)
    if bias is not None and bias.requires_grad and q.device.type == "cpu":
        # PyTorch has no fast kernel for this on CPUs, and its fallback also searches for fully masked rows.
        scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
        return (scores + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, bias: FactoredBias, scale: float | None) -> Tensor:
    """:func:`attend`, for a chunk of the queries at a time."""
    scores = len(q) * q.shape[1] * k.shape[2] * bias.rows.element_size()  # bytes per query
    step = max(1, CHUNK_BYTES.get(q.device.type, DEFAULT_CHUNK_BYTES) // scores)
    chunks = zip(q.split(step, dim=2), bias.rows.split(step, dim=2), strict=True)
    if torch.is_grad_enabled():
        recomputed = partial(checkpoint, _attend_chunk, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([recomputed(part, k, v, rows, bias.columns, scale) for part, rows in chunks], dim=2)
    return torch.cat([_attend_chunk(part, k, v, rows, bias.columns, scale) for part, rows in chunks], dim=2)


def _attend_chunk(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float | None) -> Tensor:
    return attend(q, k, v, FactoredBias(rows, columns).multiplied(), scale)


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str = "none",
) -> Tensor:  # fmt: skip
    """Implement :func:`transxnet.kernels.batch_norm`."""
    x = F.gelu(x) if gelu == "before" else x
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=momentum, eps=eps)
    return F.gelu(y) if gelu == "after" else y


def layer_scale(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Implement :func:`transxnet.kernels.layer_scale`."""
    return torch.addcmul(bias, x, weight)


def residual(x: Tensor, branch: Tensor, weight: Tensor | None, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    """Implement :func:`transxnet.kernels.residual`."""
    if weight is not None and bias is not None:
        branch = layer_scale(branch, weight, bias)
    return x + (branch if keep is None else branch * keep[:, None, None, None])
