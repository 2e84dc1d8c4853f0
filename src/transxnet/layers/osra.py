"""Overlapping Spatial Reduction Attention: figure 4 (c) and equation 3."""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import register_notrace_function
from torch import Tensor, nn

from transxnet.kernels import Bias, attention
from transxnet.layers.depthwise import DepthwiseConv2d, residual
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.sequential import GELU, Sequential

register_notrace_function(attention)


def overlapping_spatial_reduction(channels: int, stride: int) -> nn.Module:
    """OSR: a separable convolution whose patches of stride + 3 pixels overlap; nothing at stride 1."""
    if stride == 1:
        return nn.Identity()
    kernel = stride + 3
    return Sequential(
        nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False),
        BatchNorm2d(channels),
        GELU(),
        DepthwiseConv2d(channels, 1, bias=False),
        BatchNorm2d(channels),
    )


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
        self.lr = DepthwiseConv2d(channels, 3)  # local refinement
        self.kv = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        y = self.osr(x)
        return attention(self.q(x), self.kv(residual(y, self.lr)), position_bias, self.heads)
