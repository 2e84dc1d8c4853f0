"""DyConv of Table VI: Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transxnet.kernels import dynamic_depthwise_conv2d
from transxnet.layers.registry import BlockSizes, register_local_operator


class DyConv(nn.Module):
    """A depthwise convolution mixed, for every image, of a few kernels by one weight each.

    Its source divides the attention's scores by a temperature that falls to 1 in the first epochs;
    here it is 1 throughout.

    Args:
        channels: C.
        kernel_size: K, odd.
        kernels: Kernels, and as many biases.
        squeeze: Reduction of the channels inside the attention.
    """

    def __init__(self, channels: int, kernel_size: int = 7, kernels: int = 2, squeeze: int = 4) -> None:
        super().__init__()
        hidden = channels // squeeze + 1
        self.weight = nn.Parameter(torch.empty(kernels, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(kernels, channels))
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, kernels, 1),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels as the network's other convolutions; biases start at 0."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        share = self.attention(x).softmax(dim=1).unsqueeze(-1)  # (B, kernels, 1, 1, 1)
        kernel = (share * self.weight).sum(dim=1)  # (B, C, K, K)
        bias = (share[:, :, 0, :, 0] * self.bias).sum(dim=1)  # (B, C)
        return dynamic_depthwise_conv2d(x, kernel, bias)


@register_local_operator("dyconv")
def _build(sizes: BlockSizes) -> DyConv:
    return DyConv(sizes.channels, sizes.kernel_size, sizes.attention_groups)
