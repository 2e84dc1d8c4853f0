"""Overlapping Spatial Reduction Attention: figure 4 (c) and equation 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.position_bias import Bias, FactoredBias
from transxnet.layers.residual import residual

PIECE = {"cpu": 2 * 2**20}
"""Bytes of attention scores in memory at a time, by device, where the position bias is in factors: a CPU's cache."""

ELSEWHERE = 64 * 2**20
"""The same for other devices."""


def overlapping_spatial_reduction(channels: int, stride: int) -> nn.Module:
    """OSR: a separable convolution whose patches of stride + 3 pixels overlap; nothing at stride 1."""
    if stride == 1:
        return nn.Identity()
    kernel = stride + 3
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False),
        BatchNorm2d(channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, 1, groups=channels, bias=False),
        BatchNorm2d(channels),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, position_bias: Bias | None = None, scale: float | None = None) -> Tensor:
    """Attention, with a bias if there is one; in float32 where mixed precision has made half precision of it.

    The scores are sums over a head's channels before they are scaled, and pass half precision's
    65,504 in training; bfloat16 has float32's range.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, M, d).
        v: (B, heads, M, d).
        position_bias: (1, heads, N, M). Of one in factors, only as much is multiplied out at a
            time as :data:`PIECE` says, and the gradient does it again.
        scale: Of the products of q and k; d ** -0.5 if not given.

    Returns:
        (B, heads, N, d).
    """
    if isinstance(position_bias, FactoredBias):
        return _attend_in_pieces(q, k, v, position_bias, scale)
    # PyTorch's fast kernels want a token's channels side by side, and no mask that might want a gradient.
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
        # There PyTorch has no fast kernel for it, and its plain form looks for rows that are hidden whole.
        scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
        return (scores + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, bias: FactoredBias, scale: float | None) -> Tensor:
    """:func:`attend`, for some of the queries at a time."""
    scores = len(q) * q.shape[1] * k.shape[2] * bias.rows.element_size()  # bytes for each query
    step = max(1, PIECE.get(q.device.type, ELSEWHERE) // scores)
    pieces = zip(q.split(step, dim=2), bias.rows.split(step, dim=2), strict=True)
    if torch.is_grad_enabled():
        again = partial(checkpoint, _attend_piece, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(part, k, v, rows, bias.columns, scale) for part, rows in pieces], dim=2)
    return torch.cat([_attend_piece(part, k, v, rows, bias.columns, scale) for part, rows in pieces], dim=2)


def _attend_piece(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float | None) -> Tensor:
    return attend(q, k, v, FactoredBias(rows, columns).multiplied(), scale)


register_notrace_function(attend)


class OSRA(nn.Module):
    """Global attention of every place to a map that is ``reduction`` times smaller.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Attention heads.
        reduction: Stride S of the keys and values.
        spatial_reduction: Makes the reduction of (channels, stride): OSR.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        reduction: int,
        spatial_reduction: Callable[[int, int], nn.Module] = overlapping_spatial_reduction,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Conv2d(channels, channels, 1)
        self.osr = spatial_reduction(channels, reduction)
        self.lr = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)  # local refinement
        self.kv = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        y = self.osr(x)
        return self.attend(self.q(x), self.kv(residual(y, self.lr)), position_bias)

    def attend(self, q: Tensor, kv: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: q (B, C, H, W), kv (B, 2 C, H/S, W/S), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        batch, channels, height, width = q.shape
        tokens = (batch, self.heads, channels // self.heads, -1)
        k, v = kv.chunk(2, dim=1)
        q, k, v = (x.reshape(tokens).transpose(2, 3) for x in (q, k, v))  # (B, heads, N or M, d)
        z = attend(q, k, v, position_bias)
        return z.transpose(2, 3).reshape(batch, channels, height, width)
