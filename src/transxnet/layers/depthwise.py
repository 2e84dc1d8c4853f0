"""Depthwise convolutions with stride 1 that keep the map's size, of one kernel size or several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.kernels import depthwise_conv2d
from transxnet.layers.sequential import is_plain


@register_notrace_module
class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself.

    Args:
        channels: C.
        kernel_size: Odd.
        bias: Whether to add one.
    """

    def __init__(self, channels: int, kernel_size: int, *, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to the same."""
        if not self.is_as_made:
            return super().forward(input)
        return depthwise_conv2d(input, [self.weight], [self.bias])

    @property
    def is_as_made(self) -> bool:
        """Whether nobody has changed the attributes, to dilate the network for example."""
        same = (self.kernel_size[0] // 2,) * 2
        return self.stride == self.dilation == (1, 1) and self.padding == same and self.padding_mode == "zeros"


class MultiScaleConv(nn.Module):
    """Depthwise convolutions of several kernel sizes, each on an equal share of the channels.

    The first takes what the division leaves over. A 1x1 kernel is a learned scale.
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        share, rest = divmod(channels, len(kernel_sizes))
        self.channels = [share + rest, *[share] * (len(kernel_sizes) - 1)]
        self.scales = nn.ModuleList(
            DepthwiseConv2d(part, kernel) for part, kernel in zip(self.channels, kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        scales = _plain(x, list(self.scales))
        if scales is not None:
            return _convolve(x, scales)
        parts = torch.split(x, self.channels, dim=1)
        return torch.cat([scale(parts[i]) for i, scale in enumerate(self.scales)], dim=1)


def residual(x: Tensor, branch: nn.Module) -> Tensor:
    """X + branch(x), of which a depthwise convolution is one operator with the identity.

    Shapes: (B, C, H, W) to the same.
    """
    convs: Sequence[DepthwiseConv2d] | None = None
    if isinstance(branch, DepthwiseConv2d):
        convs = _plain(x, [branch])
    elif isinstance(branch, MultiScaleConv) and is_plain(branch, MultiScaleConv):
        convs = _plain(x, list(branch.scales))
    return x + branch(x) if convs is None else _convolve(x, convs, identity=True)


def _plain(x: Tensor, modules: Sequence[nn.Module]) -> Sequence[DepthwiseConv2d] | None:
    """The modules, if all of them are depthwise convolutions that nobody has changed, watches or traces."""
    convs = [one for one in modules if isinstance(one, DepthwiseConv2d) and is_plain(one, DepthwiseConv2d)]
    same = isinstance(x, Tensor) and len(convs) == len(modules) and all(conv.is_as_made for conv in convs)
    return convs if same else None


def _convolve(x: Tensor, convs: Sequence[DepthwiseConv2d], *, identity: bool = False) -> Tensor:
    return depthwise_conv2d(x, [conv.weight for conv in convs], [conv.bias for conv in convs], identity=identity)
