"""The parts that a configuration names: the one place that knows both the words and the classes."""

from __future__ import annotations

from torch import nn

from transxnet.ablation.acmix import ACmix
from transxnet.ablation.d_dwconv import DynamicDWConv
from transxnet.ablation.dyconv import DyConv
from transxnet.ablation.ffn import PointwiseFFN, VanillaFFN
from transxnet.ablation.mixing_block import MixingBlock
from transxnet.ablation.sep_conv import SepConv
from transxnet.ablation.sra import SRA
from transxnet.ablation.swin import ShiftedWindowAttention
from transxnet.ablation.window_attention import WindowAttention
from transxnet.config import TransXNetConfig
from transxnet.layers import MSFFN, OSRA, STE, DepthwiseConv2d, DMixer, IDConv, PositionBias
from transxnet.layers.osra import non_overlapping_spatial_reduction, overlapping_spatial_reduction


def token_mixer(config: TransXNetConfig, stage: int, block: int) -> nn.Module:
    """The token mixer of a block; it maps (B, C, H, W) and the stage's position bias to (B, C, H, W).

    Args:
        config: Names and sizes.
        stage: The stage, from 0.
        block: The block of the stage, from 0: the windows of odd ones are shifted.
    """
    channels, heads, size = config.channels[stage], config.heads[stage], config.kernel_sizes[stage]
    match config.token_mixer:
        case "d_mixer":
            return _d_mixer(config, stage)
        case "sep_conv":
            return SepConv(channels, size)
        case "sra":
            return SRA(channels, heads, config.reductions[stage])
        case "swin":
            return ShiftedWindowAttention(channels, heads, size, shifted=block % 2 == 1)
        case "mixing_block":
            return MixingBlock(channels, heads, size)
        case "acmix":
            return ACmix(channels, heads, size, shifted=block % 2 == 1)


def _d_mixer(config: TransXNetConfig, stage: int) -> DMixer:
    channels, attended = config.channels[stage], config.attention_channels(stage)
    reduce = overlapping_spatial_reduction if config.spatial_reduction == "osr" else non_overlapping_spatial_reduction
    return DMixer(
        (channels - attended, attended),
        local_operator=_local_operator(config, stage, channels - attended),
        attention=OSRA(attended, config.heads[stage], config.reductions[stage], reduce),
        enhancer=STE(channels) if config.enhancer == "ste" else nn.Conv2d(channels, channels, 1),
    )


def _local_operator(config: TransXNetConfig, stage: int, channels: int) -> nn.Module:
    """Maps the D-Mixer's local channels (B, C', H, W) to the same."""
    size = config.kernel_sizes[stage]
    match config.local_operator:
        case "idconv":
            return IDConv(channels, size, config.attention_groups[stage])
        case "dwconv":
            return DepthwiseConv2d(channels, size)
        case "dyconv":
            return DyConv(channels, size, config.attention_groups[stage])
        case "window_attention":
            return WindowAttention(channels, config.heads[stage], size)
        case "d_dwconv":
            return DynamicDWConv(channels, size)


def ffn(config: TransXNetConfig, stage: int) -> nn.Module:
    """The feed-forward network of a stage's blocks."""
    channels, expansion, drop = config.channels[stage], config.expansions[stage], config.ffn_drop_rate
    match config.ffn:
        case "ms_ffn":
            return MSFFN(channels, expansion, config.ffn_scales, drop)
        case "pointwise":
            return PointwiseFFN(channels, expansion, drop)
        case "vanilla":
            return VanillaFFN(channels, expansion, drop)


def position_encoding(config: TransXNetConfig, stage: int) -> nn.Module | None:
    """DPE, a depthwise convolution; None where the configuration leaves it out."""
    channels = config.channels[stage]
    return DepthwiseConv2d(channels, 7) if config.position_encoding == "dpe" else None


def position_bias(config: TransXNetConfig, stage: int) -> PositionBias | None:
    """The stage's position bias; only OSRA has a use for it."""
    if config.token_mixer != "d_mixer":
        return None
    return PositionBias(config.heads[stage], config.grid(stage), config.reductions[stage], config.position_bias_resize)
