"""The parts of figures 3 to 5 of the paper, one file a part."""

from transxnet.layers.block import Block
from transxnet.layers.d_mixer import DMixer
from transxnet.layers.depthwise import DepthwiseConv2d, MultiScaleConv
from transxnet.layers.idconv import IDConv
from transxnet.layers.layer_scale import LayerScale
from transxnet.layers.ms_ffn import MSFFN
from transxnet.layers.norm import BatchNorm2d, GroupNorm, RecomputedStatistics, group_norm, synchronise_statistics
from transxnet.layers.osra import OSRA
from transxnet.layers.patch_embed import PatchConv, PatchEmbed, PatchStem
from transxnet.layers.position_bias import PositionBias
from transxnet.layers.sequential import GELU, Sequential
from transxnet.layers.stage import Stage, is_fused
from transxnet.layers.ste import STE

__all__ = [
    "GELU",
    "MSFFN",
    "OSRA",
    "STE",
    "BatchNorm2d",
    "Block",
    "DMixer",
    "DepthwiseConv2d",
    "GroupNorm",
    "IDConv",
    "LayerScale",
    "MultiScaleConv",
    "PatchConv",
    "PatchEmbed",
    "PatchStem",
    "PositionBias",
    "RecomputedStatistics",
    "Sequential",
    "Stage",
    "group_norm",
    "is_fused",
    "synchronise_statistics",
]
