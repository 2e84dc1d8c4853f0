"""The parts of figures 3 to 5 of the paper, one file a part."""

from transxnet.layers.d_mixer import DMixer
from transxnet.layers.depthwise import DepthwiseConv2d, MultiScaleConv
from transxnet.layers.idconv import IDConv
from transxnet.layers.layer_scale import LayerScale
from transxnet.layers.ms_ffn import MSFFN
from transxnet.layers.norm import BatchNorm2d, RecomputedStatistics, group_norm
from transxnet.layers.osra import OSRA
from transxnet.layers.position_bias import PositionBias
from transxnet.layers.sequential import GELU, Sequential
from transxnet.layers.ste import STE

__all__ = [
    "GELU",
    "MSFFN",
    "OSRA",
    "STE",
    "BatchNorm2d",
    "DMixer",
    "DepthwiseConv2d",
    "IDConv",
    "LayerScale",
    "MultiScaleConv",
    "PositionBias",
    "RecomputedStatistics",
    "Sequential",
    "group_norm",
]
