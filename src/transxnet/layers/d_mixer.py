"""Dual Dynamic Token Mixer: figure 4 (a) and equation 1."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from transxnet.errors import ConfigError
from transxnet.kernels import Bias
from transxnet.layers.folding import Folding
from transxnet.layers.osra import OSRA, non_overlapping_spatial_reduction, overlapping_spatial_reduction
from transxnet.layers.registry import LOCAL_OPERATORS, BlockSizes, register_token_mixer
from transxnet.layers.ste import STE


class DMixer(nn.Module):
    """Global attention and a dynamic local operator side by side, each on its share of channels.

    In the released networks the **first** channels go to the local operator and the others to
    attention; equation 1 names them the other way round.

    Args:
        channels: Channels of the local operator and of the attention, C in all.
        local_operator: Maps its channels (B, C', H, W) to the same: IDConv.
        attention: Maps its channels (B, C - C', H, W), with a position bias, to the same: OSRA.
        enhancer: Maps (B, C, H, W) to the same: STE.
    """

    def __init__(
        self, channels: tuple[int, int], *, local_operator: nn.Module, attention: nn.Module, enhancer: nn.Module
    ) -> None:
        super().__init__()
        self.channels = list(channels)
        self.local_operator = local_operator
        self.attention = attention
        self.enhancer = enhancer

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        local, distant = torch.split(x, self.channels, dim=1)
        mixed = torch.cat((self.local_operator(local), self.attention(distant, position_bias)), dim=1)
        return self.enhancer(mixed)  # type: ignore[no-any-return]

    def folded(self, folding: Folding) -> DMixer:
        """As of :mod:`transxnet.layers.folding`; the branch's scale follows the enhancer."""
        first, second = self.channels
        return DMixer(
            (first, second),
            local_operator=folding.part(self.local_operator, "local_operator"),
            attention=folding.part(self.attention, "attention"),
            enhancer=folding.part(self.enhancer, "enhancer", folding.take_scale()),
        )


def _check(sizes: BlockSizes) -> None:
    channels, attended = sizes.channels, sizes.config.attention_channels(sizes.stage)
    if attended < 1 or attended == channels or attended % sizes.heads:
        raise ConfigError(
            f"a share of {sizes.config.attention_shares[sizes.stage]} gives OSRA {attended} of {channels} channels, "
            f"which {sizes.heads} heads cannot divide evenly"
        )
    LOCAL_OPERATORS.check(replace(sizes, channels=channels - attended))


@register_token_mixer("d_mixer", check=_check, position_bias=True)
def _build(sizes: BlockSizes) -> DMixer:
    config, channels = sizes.config, sizes.channels
    attended = config.attention_channels(sizes.stage)
    reduce = overlapping_spatial_reduction if config.spatial_reduction == "osr" else non_overlapping_spatial_reduction
    return DMixer(
        (channels - attended, attended),
        local_operator=LOCAL_OPERATORS.build(replace(sizes, channels=channels - attended)),
        attention=OSRA(attended, sizes.heads, sizes.reduction, reduce),
        enhancer=STE(channels) if config.enhancer == "ste" else nn.Conv2d(channels, channels, 1),
    )
