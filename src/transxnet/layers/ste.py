"""Squeezed Token Enhancer: figure 4 (d) and equation 4."""

from __future__ import annotations

from torch import Tensor, nn

from transxnet.layers.depthwise import DepthwiseConv2d
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.sequential import GELU, Sequential


class STE(nn.Module):
    """Mix neighbours, then channels through a squeeze, beside the identity.

    Args:
        channels: C.
        squeeze: Reduction r of the channels; at least ``min_channels`` remain.
    """

    def __init__(self, channels: int, squeeze: int = 8, min_channels: int = 16) -> None:
        super().__init__()
        squeezed = max(min_channels, channels // squeeze)
        self.local = Sequential(
            DepthwiseConv2d(channels, 3),
            GELU(),
            BatchNorm2d(channels),
        )
        self.squeeze = Sequential(nn.Conv2d(channels, squeezed, 1), GELU(), BatchNorm2d(squeezed))
        self.expand = Sequential(nn.Conv2d(squeezed, channels, 1), BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return x + self.expand(self.squeeze(self.local(x)))  # type: ignore[no-any-return]
