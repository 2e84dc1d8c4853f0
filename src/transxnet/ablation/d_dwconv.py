"""D-DWConv of Table VI: Han et al., "On the Connection between Local Attention and Dynamic Depth-wise Convolution",
ICLR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transxnet.errors import ConfigError
from transxnet.kernels import dynamic_depthwise_conv2d
from transxnet.layers import BatchNorm2d
from transxnet.layers.registry import BlockSizes, register_local_operator


class DynamicDWConv(nn.Module):
    """A depthwise convolution whose whole kernel is computed from the image's mean, beside a static bias.

    Args:
        channels: C, at least ``squeeze``.
        kernel_size: K, odd.
        squeeze: Reduction of the channels before the kernel.
    """

    def __init__(self, channels: int, kernel_size: int = 7, squeeze: int = 8) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.bias = nn.Parameter(torch.zeros(channels))
        self.kernel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // squeeze, 1, bias=False),
            BatchNorm2d(channels // squeeze),
            nn.ReLU(),
            nn.Conv2d(channels // squeeze, channels * kernel_size**2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        batch, channels = x.shape[:2]
        kernel = self.kernel(x).reshape(batch, channels, self.kernel_size, self.kernel_size)
        return dynamic_depthwise_conv2d(x, kernel, self.bias.expand(batch, -1))


def _check(sizes: BlockSizes) -> None:
    if sizes.channels < 8:
        raise ConfigError("D-DWConv needs at least 8 channels")


@register_local_operator("d_dwconv", check=_check)
def _build(sizes: BlockSizes) -> DynamicDWConv:
    return DynamicDWConv(sizes.channels, sizes.kernel_size)
