"""SRA of Table V: Spatial Reduction Attention of Wang et al., "Pyramid Vision Transformer", ICCV 2021."""

from __future__ import annotations

from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.kernels import attend
from transxnet.layers import PatchConv
from transxnet.layers.registry import BlockSizes, check_heads, register_token_mixer


@register_notrace_module
class SRA(nn.Module):
    """Global attention of every position to the map's patches of S x S positions, which do not overlap.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Attention heads.
        reduction: Side S of a patch; at 1 there is no reduction.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.sr = PatchConv(channels, channels, reduction) if reduction > 1 else nn.Identity()
        self.norm = nn.LayerNorm(channels) if reduction > 1 else nn.Identity()
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; position_bias is not used."""
        batch, channels, height, width = x.shape
        heads = (batch, -1, self.heads, channels // self.heads)
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        regions = self.norm(self.sr(x).flatten(2).transpose(1, 2))  # (B, M, C)
        q = self.q(tokens).reshape(heads).transpose(1, 2)  # (B, heads, N, d)
        k, v = (part.reshape(heads).transpose(1, 2) for part in self.kv(regions).chunk(2, dim=-1))  # (B, heads, M, d)
        z = attend(q, k, v).transpose(1, 2).reshape(batch, -1, channels)  # (B, N, C)
        return self.proj(z).transpose(1, 2).reshape(batch, channels, height, width)  # type: ignore[no-any-return]


@register_token_mixer("sra", check=check_heads)
def _build(sizes: BlockSizes) -> SRA:
    return SRA(sizes.channels, sizes.heads, sizes.reduction)
