"""The feature pyramid between a backbone and its head."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from transxnet.dense.backbone import DenseBackbone


class P6P7(ExtraFPNBlock):
    """Two coarser levels from the backbone's last map, without an activation between them.

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the pyramid.

    Attributes:
        levels: Number of levels that it adds.
    """

    levels = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Shapes: the last map of ``x`` (B, C, H, W) to two of a half and a quarter of its size."""
        p6 = self.p6(x[-1])
        return [*results, p6, self.p7(p6)], [*names, "p6", "p7"]


class EverySecondPixel(ExtraFPNBlock):
    """A coarser level of every second row and column of the last one, as torchvision's LastLevelMaxPool.

    PyTorch 2.9 does not export max pooling of maps of every size.
    """

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Shapes: the last level of ``results`` (B, C, H, W) to one of half its size, rounded up."""
        return [*results, results[-1][:, :, ::2, ::2]], [*names, "pool"]


def head_norm(channels: int) -> nn.Module:
    """Group normalisation over groups of eight channels, which training from scratch needs at any batch size."""
    return nn.GroupNorm(math.gcd(max(channels // 8, 1), channels), channels)


class PyramidBackbone(nn.Module):
    """A backbone and torchvision's feature pyramid over its maps, as torchvision's detectors want it.

    Args:
        body: The backbone; its channels and strides decide the pyramid's.
        out_channels: Channels of every level.
        extra_blocks: Makes coarser levels from (in_channels, out_channels); none if not given. A block that
            adds more than one has their number as ``levels``.
        norm_layer: Makes a normalisation for so many channels, after each convolution; none if not given.

    Attributes:
        strides: Input pixels for each step of each level.
    """

    def __init__(
        self,
        body: DenseBackbone,
        out_channels: int = 256,
        extra_blocks: Callable[[int, int], ExtraFPNBlock] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        extra = extra_blocks(body.channels[-1], out_channels) if extra_blocks else None
        self.fpn = FeaturePyramidNetwork(list(body.channels), out_channels, extra, norm_layer)
        coarser = getattr(extra, "levels", 1) if extra is not None else 0
        self.strides = (*body.strides, *(body.strides[-1] * 2 ** (level + 1) for level in range(coarser)))
        for layer in self.fpn.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Shapes: (B, 3, H, W), of any type, to maps (B, out_channels, H / stride, W / stride), finest first."""
        dtype = next(self.fpn.parameters()).dtype
        x = x if x.dtype == dtype else x.to(dtype)
        maps = {str(level): output for level, output in enumerate(self.body(x))}
        return self.fpn(maps)  # type: ignore[no-any-return]
