"""Swin of Table V: attention in shifted windows, Liu et al., "Swin Transformer", ICCV 2021."""

from __future__ import annotations

from timm.layers import RelPosBias
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_in_windows, padded
from transxnet.layers.registry import BlockSizes, check_heads, register_token_mixer


@register_notrace_module
class ShiftedWindowAttention(nn.Module):
    """Attention inside windows, which every other block shifts by half their size.

    The map is padded with zeros to whole windows first; the padding takes part in attention, as in
    Swin's own code for images of any size.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Attention heads.
        window: Side of a window.
        shifted: Whether this block's windows are shifted.
    """

    def __init__(self, channels: int, heads: int, window: int = 7, *, shifted: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shifted = shifted
        self.qkv = nn.Linear(channels, 3 * channels)
        self.position_bias = RelPosBias((window, window), heads)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; the windows have a position bias of their own."""
        height, width = x.shape[-2:]
        x = padded(x.permute(0, 2, 3, 1), self.window)  # (B, H', W', C)
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, H', W', C)
        bias = self.position_bias.get_bias()  # (1, heads, N, N)
        z = attend_in_windows(q, k, v, heads=self.heads, size=self.window, bias=bias, shifted=self.shifted)
        return self.proj(z)[:, :height, :width].permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shifted={self.shifted}"


@register_token_mixer("swin", check=check_heads)
def _build(sizes: BlockSizes) -> ShiftedWindowAttention:
    return ShiftedWindowAttention(sizes.channels, sizes.heads, sizes.kernel_size, shifted=sizes.block % 2 == 1)
