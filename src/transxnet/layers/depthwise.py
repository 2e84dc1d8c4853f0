"""Depthwise convolutions with stride 1 that keep the map's size, of one kernel size or several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.kernels import depthwise_conv2d, is_triton, multi_scale_conv2d
from transxnet.layers.affine import Kernel, constant
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


class FixedScales:
    """Constants of depthwise convolutions in inference, as the kernels for CUDA devices take them.

    They are no parameters: they stay float32 in a network that is converted, are not exported, and follow the maps
    to their device.

    Args:
        weights: (C', 1, K, K) of each share of the channels; all but the first have as many channels.
        biases: (C') of each share.
        affine: Scale and shift (C) of the map before it is padded and convolved.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], affine: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.channels, self.sizes = [len(one) for one in weights], [one.shape[-1] for one in weights]
        wide = max(self.channels)
        rows = [F.pad(one.flatten(1).T, (0, wide - len(one))) for one in weights]
        self._tensors = [
            one.float().contiguous() for one in (torch.cat(rows), torch.cat(list(biases)), *(affine or ()))
        ]

    @staticmethod
    def take(x: Tensor) -> bool:
        """Whether a map is for the kernels, now and here; they have no gradient."""
        return is_triton(x) and not (torch.is_grad_enabled() and x.requires_grad)

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        if self._tensors[0].device != x.device:
            self._tensors = [one.to(x.device) for one in self._tensors]
        weight, bias, *affine = self._tensors
        pair = (affine[0], affine[1]) if affine else None
        return multi_scale_conv2d(x, weight, bias, pair, self.channels, self.sizes, gelu=gelu)


class FusedDepthwise(nn.Conv2d):
    """A depthwise convolution with fixed weights, with GELU after it, or an affine map before it.

    Args:
        kernel: Of a convolution that keeps the map's size.
    """

    def __init__(self, kernel: Kernel, affine: tuple[Tensor, Tensor] | None = None) -> None:
        old = kernel.conv
        super().__init__(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,  # type: ignore[arg-type]
            padding_mode=old.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = constant(kernel.weight, old.weight), constant(kernel.bias, old.weight)
        size = self.kernel_size[0]
        same = self.stride == self.dilation == (1, 1) and self.padding == (size // 2,) * 2
        plain = same and self.padding_mode == "zeros" and self.kernel_size == (size, size) and size in (1, 3, 5, 7)
        depthwise = self.groups == self.in_channels == self.out_channels
        self.fixed = FixedScales([kernel.weight], [kernel.bias], affine) if plain and depthwise else None
        self.eval()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to the same."""
        if self.fixed is not None and self.fixed.take(input):
            return self.fixed(input)
        return super().forward(input)

    def then_gelu(self, x: Tensor) -> Tensor:
        """The convolution and GELU. Shapes: (B, C, H, W) to the same."""
        if self.fixed is not None and self.fixed.take(x):
            return self.fixed(x, gelu=True)
        return F.gelu(self(x))


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
