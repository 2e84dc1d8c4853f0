"""Multi-scale Feed-forward Network: figure 5 (c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.residual import residual


class MultiScaleConv(nn.Module):
    """Depthwise convolutions of several kernel sizes, each on an equal share of the channels.

    The first takes what the division leaves over. A 1x1 kernel is a learned scale.
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        share, rest = divmod(channels, len(kernel_sizes))
        self.channels = [share + rest, *[share] * (len(kernel_sizes) - 1)]
        self.scales = nn.ModuleList(
            nn.Conv2d(part, part, kernel, padding=kernel // 2, groups=part)
            for part, kernel in zip(self.channels, kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        parts = torch.split(x, self.channels, dim=1)
        return torch.cat([scale(parts[i]) for i, scale in enumerate(self.scales)], dim=1)


class MSFFN(nn.Module):
    """Expand the channels, aggregate neighbours at several scales, and project back.

    Args:
        channels: C.
        expansion: Ratio E of hidden channels to C.
        kernel_sizes: The scales.
        drop_rate: Dropout before and after the projection.
    """

    def __init__(
        self, channels: int, expansion: int, kernel_sizes: Sequence[int] = (1, 3, 5, 7), drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.GELU(), BatchNorm2d(hidden))
        self.multi_scale = MultiScaleConv(hidden, kernel_sizes)
        self.act = nn.GELU()
        self.norm = BatchNorm2d(hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), BatchNorm2d(channels))
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        x = self.expand(x)  # (B, E * C, H, W)
        x = residual(x, self.multi_scale)
        x = self.drop(self.activate(x))
        return self.drop(self.project(x))  # type: ignore[no-any-return]

    def activate(self, x: Tensor) -> Tensor:
        """GELU and normalisation."""
        return self.norm(self.act(x))  # type: ignore[no-any-return]
