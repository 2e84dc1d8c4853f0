"""Overlapping Spatial Reduction Attention: figure 4 (c) and equation 3."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.layers.norm import BatchNorm2d


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


def attend(q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor | None = None) -> Tensor:
    """Attention, with a bias if there is one; in float32 where mixed precision has made half precision of it.

    The scores are sums over a head's channels before they are scaled, and pass half precision's
    65,504 in training; bfloat16 has float32's range.

    Shapes: q (B, heads, N, d), k and v (B, heads, M, d), position_bias (1, heads, N, M); returns
    (B, heads, N, d).
    """
    if q.dtype == torch.float16 and torch.is_autocast_enabled(q.device.type):
        with torch.autocast(q.device.type, enabled=False):
            bias = None if position_bias is None else position_bias.float()
            z = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias)
        return z.to(q.dtype)
    bias = None if position_bias is None else position_bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


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

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        batch, channels, height, width = x.shape
        tokens = (batch, self.heads, channels // self.heads, -1)
        q = self.q(x).reshape(tokens).transpose(2, 3)  # (B, heads, N, d)
        y = self.osr(x)
        k, v = self.kv(y + self.lr(y)).chunk(2, dim=1)  # each (B, C, H/S, W/S)
        k = k.reshape(tokens).transpose(2, 3)  # (B, heads, M, d)
        v = v.reshape(tokens).transpose(2, 3)
        z = attend(q, k, v, position_bias)
        return z.transpose(2, 3).reshape(batch, channels, height, width)
