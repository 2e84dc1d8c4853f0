"""DWConv of Table VI: a depthwise convolution, the same for every image."""

from __future__ import annotations

from transxnet.layers import DepthwiseConv2d
from transxnet.layers.registry import BlockSizes, register_local_operator


@register_local_operator("dwconv")
def _build(sizes: BlockSizes) -> DepthwiseConv2d:
    return DepthwiseConv2d(sizes.channels, sizes.kernel_size)
