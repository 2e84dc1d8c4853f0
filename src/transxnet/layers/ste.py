"""Squeezed Token Enhancer: figure 4 (d) and equation 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transxnet.layers.affine import Kernel, affine_of, constant
from transxnet.layers.depthwise import DepthwiseConv2d, FusedDepthwise
from transxnet.layers.folding import Folding, has_known_leaves, layers_of
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.sequential import GELU, Sequential


class STE(nn.Module):
    """Mix neighbours, then channels through a bottleneck, beside the identity.

    Args:
        channels: C.
        squeeze: Reduction r of the channels; at least ``min_channels`` remain.
    """

    def __init__(self, channels: int, squeeze: int = 8, min_channels: int = 16) -> None:
        super().__init__()
        squeezed = max(min_channels, channels // squeeze)
        self.local = Sequential(
            DepthwiseConv2d(channels, 3),
            GELU(),
            BatchNorm2d(channels),
        )
        self.squeeze = Sequential(nn.Conv2d(channels, squeezed, 1), GELU(), BatchNorm2d(squeezed))
        self.expand = Sequential(nn.Conv2d(squeezed, channels, 1), BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return x + self.expand(self.squeeze(self.local(x)))  # type: ignore[no-any-return]

    def folded(self, folding: Folding) -> FusedSTE | None:
        """As of :mod:`transxnet.layers.folding`, with the branch's scale."""
        if not has_known_leaves(self):
            return None
        local, _, first = layers_of(self.local)
        squeeze, _, second = layers_of(self.squeeze)
        expand, third = layers_of(self.expand)
        weight, bias = folding.take_affine(expand.weight)
        kernel = Kernel(expand).after(*affine_of(second)).then(*affine_of(third)).then(weight, bias)
        return FusedSTE(
            FusedDepthwise(Kernel(local)),
            folding.to_pointwise(Kernel(squeeze).after(*affine_of(first)), gelu=True),
            folding.to_pointwise(kernel),
            constant(weight[:, None, None], expand.weight),
        )


class FusedSTE(nn.Module):
    """STE and the scale of its branch.

    The identity beside STE is scaled too: ``scale * (x + expand(...)) + shift``, of which the
    convolution holds all but ``scale * x``.

    Args:
        local: Depthwise convolution.
        squeeze: Holds the batch normalisation before it; GELU follows in it.
        expand: Holds the ones before and after it, and the branch's scale and shift.
        identity: Weight of the identity, (C, 1, 1).
    """

    def __init__(self, local: FusedDepthwise, squeeze: nn.Module, expand: nn.Module, identity: nn.Parameter) -> None:
        super().__init__()
        self.local = local
        self.squeeze = squeeze
        self.expand = expand
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        y = self.squeeze(self.local.then_gelu(x))
        return torch.addcmul(self.expand(y), x, self.identity)
