"""Sep Conv of Table V: the separable convolution of Chollet, "Xception", CVPR 2017."""

from __future__ import annotations

from torch import Tensor, nn

from transxnet.layers import DepthwiseConv2d
from transxnet.layers.registry import BlockSizes, register_token_mixer


class SepConv(nn.Module):
    """A depthwise convolution over positions, then a 1x1 convolution over channels.

    Args:
        channels: C.
        kernel_size: K, odd.
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(channels, kernel_size)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; position_bias is not used."""
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]


@register_token_mixer("sep_conv")
def _build(sizes: BlockSizes) -> SepConv:
    return SepConv(sizes.channels, sizes.kernel_size)
