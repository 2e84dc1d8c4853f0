"""Overlapping Spatial Reduction Attention: figure 4 (c) and equation 3."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models import register_notrace_function
from torch import Tensor, nn

from transxnet.kernels import Bias, attention
from transxnet.layers.affine import Affine, Kernel, affine_of
from transxnet.layers.depthwise import DepthwiseConv2d, FixedScales, FusedDepthwise, residual
from transxnet.layers.folding import Folding, has_known_leaves, layers_of
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.patch_embed import PatchConv
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


def non_overlapping_spatial_reduction(channels: int, stride: int) -> nn.Module:
    """NSR of Table IX: OSR with patches of stride x stride positions, side by side; nothing at stride 1."""
    if stride == 1:
        return nn.Identity()
    return Sequential(
        PatchConv(channels, channels, stride, groups=channels, bias=False),
        BatchNorm2d(channels),
        GELU(),
        DepthwiseConv2d(channels, 1, bias=False),
        BatchNorm2d(channels),
    )


class OSRA(nn.Module):
    """Global attention of every position to a map that is ``reduction`` times smaller.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Attention heads.
        reduction: Stride S of the keys and values.
        spatial_reduction: Makes the reduction from (channels, stride): OSR.
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

    def folded(self, folding: Folding) -> FusedOSRA | None:
        """As of :mod:`transxnet.layers.folding`."""
        if not has_known_leaves(self):
            return None
        q = Kernel(self.q)
        q.then(torch.full_like(q.bias, (self.q.out_channels // self.heads) ** -0.5))
        osr, before, refinement = self.osr, None, Kernel(self.lr).beside_identity()
        if isinstance(osr, nn.Sequential):
            spread, first, act, pointwise, second = layers_of(osr)
            # A padded convolution comes next: the affine map stays (see FusedMSFFN).
            kernel = Kernel(pointwise).then(*affine_of(second))
            affine = Affine(kernel.weight.flatten(), kernel.bias, pointwise.weight, folding.channels_last)
            before = kernel.weight.flatten(), kernel.bias
            osr = nn.Sequential(Kernel(spread).then(*affine_of(first)).to_conv(), act, affine)
        return FusedOSRA(
            self.heads,
            folding.to_pointwise(q),
            osr,
            FusedDepthwise(refinement),
            folding.to_pointwise(Kernel(self.kv)),
            FixedScales([refinement.weight], [refinement.bias], before),
        )


class FusedOSRA(nn.Module):
    """OSRA whose q is scaled already, and whose local refinement contains the identity.

    Args:
        heads: Attention heads.
        q: 1x1 convolution.
        osr: Maps (B, C, H, W) to (B, C, H / S, W / S).
        lr: Depthwise convolution.
        kv: 1x1 convolution to 2C.
        refine: ``lr`` with the affine map at the end of ``osr``, as the kernels for CUDA devices take it.
    """

    def __init__(
        self, heads: int, q: nn.Module, osr: nn.Module, lr: nn.Conv2d, kv: nn.Module, refine: FixedScales
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = q
        self.osr = osr
        self.lr = lr
        self.kv = kv
        self.refine = refine

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        if self.refine.take(x):
            reduced = x if isinstance(self.osr, nn.Identity) else self.osr[:-1](x)  # type: ignore[index]
            refined = self.refine(reduced)
        else:
            refined = self.lr(self.osr(x))
        kv = self.kv(refined)
        return attention(self.q(x), kv, position_bias, self.heads, scale=1.0)
