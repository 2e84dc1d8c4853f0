"""Mixing block of Table V: Chen et al., "MixFormer: Mixing Features across Windows and Dimensions", CVPR 2022."""

from __future__ import annotations

import torch
from timm.layers import RelPosBias
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_in_windows, padded
from transxnet.errors import ConfigError
from transxnet.layers import GELU, BatchNorm2d, DepthwiseConv2d, Sequential
from transxnet.layers.registry import BlockSizes, check_heads, register_token_mixer


def _gate(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return Sequential(
        nn.Conv2d(in_channels, hidden, 1), BatchNorm2d(hidden), GELU(), nn.Conv2d(hidden, out_channels, 1)
    )


@register_notrace_module
class MixingBlock(nn.Module):
    """Window attention and a depthwise convolution in parallel, each gating the other.

    The convolution's map, averaged over the image, gates the channels of the attention's values
    (channel interaction); the attention's result gates the positions of the convolution's map
    (spatial interaction). The map is padded with zeros to whole windows first.

    Args:
        channels: C, at least 16; half of it a multiple of ``heads``.
        heads: Attention heads.
        window: Side of a window.
        kernel_size: Of the depthwise convolution, odd.
    """

    def __init__(self, channels: int, heads: int, window: int = 7, kernel_size: int = 3) -> None:
        super().__init__()
        half = channels // 2
        self.heads = heads
        self.window = window
        self.to_attention = nn.Sequential(nn.Linear(channels, half), nn.LayerNorm(half))
        self.to_convolution = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.depthwise = Sequential(
            DepthwiseConv2d(channels, kernel_size),
            BatchNorm2d(channels),
            GELU(),
        )
        self.channel_interaction = _gate(channels, channels // 8, half)
        self.halve = nn.Conv2d(channels, half, 1)
        self.convolution_norm = BatchNorm2d(half)
        self.qkv = nn.Linear(half, 3 * half)
        self.position_bias = RelPosBias((window, window), heads)
        self.spatial_interaction = _gate(half, channels // 16, 1)
        self.attention_norm = nn.LayerNorm(half)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; the windows have a position bias of their own."""
        height, width = x.shape[-2:]
        x = padded(x.permute(0, 2, 3, 1), self.window)  # (B, H', W', C)
        convolved = self.depthwise(self.to_convolution(x).permute(0, 3, 1, 2))  # (B, C, H', W')
        channel_gate = self.channel_interaction(convolved.mean((2, 3), keepdim=True)).sigmoid()  # (B, C/2, 1, 1)
        attended = self._attend(self.to_attention(x), channel_gate)  # (B, H', W', C/2)
        position_gate = self.spatial_interaction(attended.permute(0, 3, 1, 2)).sigmoid()  # (B, 1, H', W')
        convolved = self.convolution_norm(position_gate * self.halve(convolved))  # (B, C/2, H', W')
        both = torch.cat((self.attention_norm(attended), convolved.permute(0, 2, 3, 1)), dim=-1)  # (B, H', W', C)
        return self.proj(both)[:, :height, :width].permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, channel_gate: Tensor) -> Tensor:
        """Shapes: x (B, H', W', C/2), channel_gate (B, C/2, 1, 1); returns as x."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, H', W', C/2)
        v = v * channel_gate.permute(0, 2, 3, 1)
        bias = self.position_bias.get_bias()  # (1, heads, N, N)
        return attend_in_windows(q, k, v, heads=self.heads, size=self.window, bias=bias)


def _check(sizes: BlockSizes) -> None:
    check_heads(sizes)
    if sizes.channels < 16 or sizes.channels % (2 * sizes.heads):
        raise ConfigError(
            f"the mixing block needs at least 16 channels, half of which the {sizes.heads} heads divide evenly, not "
            f"{sizes.channels}"
        )


@register_token_mixer("mixing_block", check=_check)
def _build(sizes: BlockSizes) -> MixingBlock:
    return MixingBlock(sizes.channels, sizes.heads, sizes.kernel_size)
