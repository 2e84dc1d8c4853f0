"""Input-dependent Depthwise Convolution: figure 4 (b) and equation 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transxnet.kernels import dynamic_depthwise_conv2d
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.sequential import GELU, Sequential


class IDConv(nn.Module):
    """A depthwise convolution whose kernel and bias are mixed anew for every image.

    A bank holds G kernels and G biases for each channel; attention over the G groups, computed
    from the image, mixes them. The kernel's attention varies over its K x K places.

    Args:
        channels: C.
        kernel_size: K, odd.
        groups: G, the attention groups.
        squeeze: Reduction r of the channels inside the attention.
    """

    def __init__(self, channels: int, kernel_size: int = 7, groups: int = 2, squeeze: int = 4) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(groups, channels))
        self.pool = nn.AdaptiveAvgPool2d(kernel_size)
        self.attention = Sequential(
            nn.Conv2d(channels, channels // squeeze, 1, bias=False),
            BatchNorm2d(channels // squeeze),
            GELU(),
            nn.Conv2d(channels // squeeze, groups * channels, 1),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the two banks from a normal distribution of deviation 0.02, truncated at 2."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        kernel = self._mix(self.pool(x), self.weight)  # (B, C, K, K)
        # The attention's batch norm sees the pooled map first and the mean second, one batch each.
        bias = self._mix(x.mean((2, 3), keepdim=True), self.bias[:, :, None, None])  # (B, C, 1, 1)
        return dynamic_depthwise_conv2d(x, kernel, bias.flatten(1))

    def _mix(self, pooled: Tensor, bank: Tensor) -> Tensor:
        """Shapes: pooled (B, C, k, k), bank (G, C, k, k); returns (B, C, k, k)."""
        batch, channels, height, width = pooled.shape
        scores = self.attention(pooled).reshape(batch, self.groups, channels, height, width)
        return (scores.softmax(dim=1) * bank).sum(dim=1)  # type: ignore[no-any-return]
