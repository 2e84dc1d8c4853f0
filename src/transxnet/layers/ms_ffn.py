"""Multi-scale Feed-forward Network: figure 5 (c)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from transxnet.layers.depthwise import MultiScaleConv, residual
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.sequential import GELU, Sequential, in_order


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
        self.expand = Sequential(nn.Conv2d(channels, hidden, 1, bias=False), GELU(), BatchNorm2d(hidden))
        self.multi_scale = MultiScaleConv(hidden, kernel_sizes)
        self.act = GELU()
        self.norm = BatchNorm2d(hidden)
        self.project = Sequential(nn.Conv2d(hidden, channels, 1, bias=False), BatchNorm2d(channels))
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        x = self.expand(x)  # (B, E * C, H, W)
        x = residual(x, self.multi_scale)
        x = self.drop(in_order(x, self.act, self.norm))
        return self.drop(self.project(x))  # type: ignore[no-any-return]
