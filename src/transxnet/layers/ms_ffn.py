"""Multi-scale Feed-forward Network: figure 5 (c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.layers.affine import Affine, Kernel, affine_of, fixed_conv
from transxnet.layers.depthwise import FixedScales, MultiScaleConv, residual
from transxnet.layers.folding import Folding, has_known_leaves, layers_of
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.registry import BlockSizes, register_ffn
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

    def folded(self, folding: Folding) -> FusedMSFFN | None:
        """As of :mod:`transxnet.layers.folding`, with the branch's scale."""
        if not has_known_leaves(self) or type(self.multi_scale) is not MultiScaleConv:
            return None
        expand, _, before = layers_of(self.expand)
        project, after = layers_of(self.project)
        kernel = Kernel(project).after(*affine_of(self.norm)).then(*affine_of(after))
        kernel = kernel.then(*folding.take_affine(project.weight))
        kernels = [Kernel(conv).beside_identity() for conv in self.multi_scale.scales]  # type: ignore[arg-type]
        shares = self.multi_scale.channels
        if folding.depthwise_form == "split":
            affine, multi_scale = _split(kernels, shares, *affine_of(before))
        else:
            affine, multi_scale = affine_of(before), _single(kernels)
        multi_scale = nn.Sequential(Affine(*affine, project.weight, folding.channels_last), multi_scale)
        fixed = FixedScales([one.weight for one in kernels], [one.bias for one in kernels], affine_of(before))
        return FusedMSFFN(
            folding.to_pointwise(Kernel(expand), gelu=True), multi_scale, folding.to_pointwise(kernel), fixed
        )


class FusedMSFFN(nn.Module):
    """MS-FFN and the scale of its branch.

    The batch normalisation after ``expand`` stands before padded convolutions: folded into them, its
    shift would be seen outside the map, where the padding has none. It stays, first in ``multi_scale``.

    Args:
        expand: 1x1 convolution to E * C, and GELU.
        multi_scale: The affine map, the depthwise convolutions and the identity beside them.
        project: 1x1 convolution back, with the batch normalisations beside it and the branch's scale.
        fixed: ``multi_scale`` as the kernels for CUDA devices take it.
    """

    def __init__(self, expand: nn.Module, multi_scale: nn.Module, project: nn.Module, fixed: FixedScales) -> None:
        super().__init__()
        self.expand = expand
        self.multi_scale = multi_scale
        self.project = project
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        x = self.expand(x)  # (B, E * C, H, W)
        if self.fixed.take(x):
            return self.project(self.fixed(x, gelu=True))  # type: ignore[no-any-return]
        x = self.multi_scale(x)
        return self.project(F.gelu(x))  # type: ignore[no-any-return]


class SplitScales(nn.Module):
    """Each scale on its share of the channels.

    Args:
        channels: Of each share.
        scales: Map (B, channels, H, W) to the same.
    """

    def __init__(self, channels: Sequence[int], scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        parts = torch.split(x, self.channels, dim=1)
        return torch.cat([scale(parts[index]) for index, scale in enumerate(self.scales)], dim=1)


def _split(
    kernels: list[Kernel], shares: list[int], scale: Tensor, shift: Tensor
) -> tuple[tuple[Tensor, Tensor], nn.Module]:
    """The affine map before the scales, and the scales. A 1x1 kernel pads nothing: the affine map does it too."""
    maps, scales = [], list[nn.Module]()
    for kernel, weight, bias in zip(kernels, scale.split(shares), shift.split(shares), strict=True):
        if kernel.weight.shape[-1] == 1:
            factor = kernel.weight.flatten()
            maps.append((factor * weight, factor * bias + kernel.bias))
            scales.append(nn.Identity())
        else:
            maps.append((weight, bias))
            scales.append(kernel.to_conv())
    weights, biases = zip(*maps, strict=True)
    return (torch.cat(weights), torch.cat(biases)), SplitScales(shares, scales)


def _single(kernels: list[Kernel]) -> nn.Module:
    size = max(kernel.weight.shape[-1] for kernel in kernels)
    weight = torch.cat([kernel.grown(size) for kernel in kernels])
    bias = torch.cat([kernel.bias for kernel in kernels])
    return fixed_conv(weight, bias, kernels[0].conv.weight, groups=len(weight))


@register_ffn("ms_ffn")
def _build(sizes: BlockSizes) -> MSFFN:
    return MSFFN(sizes.channels, sizes.expansion, sizes.config.ffn_scales, sizes.drop_rate)
