"""Squeezed Token Enhancer: figure 4 (d) and equation 4."""

from __future__ import annotations

from torch import Tensor, nn

from transxnet.layers.norm import BatchNorm2d


class STE(nn.Module):
    """Mix neighbours, then channels through a squeeze, beside the identity.

    Args:
        channels: C.
        squeeze: Reduction r of the channels; at least ``min_channels`` remain.
    """

    def __init__(self, channels: int, squeeze: int = 8, min_channels: int = 16) -> None:
        super().__init__()
        squeezed = max(min_channels, channels // squeeze)
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.GELU(),
            BatchNorm2d(channels),
        )
        self.squeeze = nn.Sequential(nn.Conv2d(channels, squeezed, 1), nn.GELU(), BatchNorm2d(squeezed))
        self.expand = nn.Sequential(nn.Conv2d(squeezed, channels, 1), BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return x + self.expand(self.squeeze(self.local(x)))  # type: ignore[no-any-return]
