"""Feed-forward networks that Tables V and VII compare with MS-FFN."""

from __future__ import annotations

from timm.layers import Mlp
from torch import Tensor, nn

from transxnet.layers import GELU, BatchNorm2d, Sequential
from transxnet.layers.registry import BlockSizes, register_ffn


class VanillaFFN(Mlp):
    """Two linear layers, GELU between: Dosovitskiy et al., "ViT", ICLR 2021; figure 5 (a) and Table V.

    Args:
        channels: C.
        expansion: Ratio of hidden channels to C.
        drop_rate: Dropout after each layer.
    """

    def __init__(self, channels: int, expansion: int, drop_rate: float = 0.0) -> None:
        super().__init__(channels, expansion * channels, act_layer=GELU, drop=drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return, no-untyped-call]


class PointwiseFFN(nn.Module):
    """MS-FFN without its depthwise convolutions and what normalises them: Table VII's row without scales.

    Args:
        channels: C.
        expansion: Ratio of hidden channels to C.
        drop_rate: Dropout before and after the projection.
    """

    def __init__(self, channels: int, expansion: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = Sequential(nn.Conv2d(channels, hidden, 1, bias=False), GELU(), BatchNorm2d(hidden))
        self.project = Sequential(nn.Conv2d(hidden, channels, 1, bias=False), BatchNorm2d(channels))
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return self.drop(self.project(self.drop(self.expand(x))))  # type: ignore[no-any-return]


@register_ffn("pointwise")
def _build_pointwise(sizes: BlockSizes) -> PointwiseFFN:
    return PointwiseFFN(sizes.channels, sizes.expansion, sizes.drop_rate)


@register_ffn("vanilla")
def _build_vanilla(sizes: BlockSizes) -> VanillaFFN:
    return VanillaFFN(sizes.channels, sizes.expansion, sizes.drop_rate)
