"""ACmix block of Table V: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022."""

from __future__ import annotations

import torch
from timm.layers import RelPosBias
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_in_windows, padded
from transxnet.layers.registry import BlockSizes, check_heads, register_token_mixer


@register_notrace_module
class ACmix(nn.Module):
    """Window attention and a convolution that share their projections q, k and v.

    The convolution is the paper's: the 3 x heads projections are mixed into the nine positions of a
    3x3 kernel, whose shifts and sum are a grouped convolution that starts as pure shifts. As in
    Swin-ACmix, the windows of every other block are shifted; the convolution is not, so that the
    shift's seam does not cut through it. The projections are padded with zeros to whole windows first.

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
        per_head = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.position_bias = RelPosBias((window, window), heads)
        self.proj = nn.Linear(channels, channels)
        self.fc = nn.Conv2d(3 * heads, 9, 1)
        self.dep_conv = nn.Conv2d(9 * per_head, channels, 3, padding=1, groups=per_head, bias=False)
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))  # of attention
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))  # of the convolution
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start the grouped convolution as the nine shifts of a 3x3 kernel."""
        self.dep_conv.weight.copy_(torch.eye(9).reshape(9, 3, 3))  # one position for each input of a group

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; the windows have a position bias of their own."""
        height, width = x.shape[-2:]
        qkv = padded(self.qkv(x.permute(0, 2, 3, 1)), self.window)  # (B, H', W', 3C)
        y = self.rate1 * self._attend(qkv) + self.rate2 * self._convolve(qkv)  # (B, C, H', W')
        return y[:, :, :height, :width]

    def _attend(self, qkv: Tensor) -> Tensor:
        """Shapes: (B, H', W', 3C) to (B, C, H', W')."""
        q, k, v = qkv.chunk(3, dim=-1)  # each (B, H', W', C)
        bias = self.position_bias.get_bias()  # (1, heads, N, N)
        z = attend_in_windows(q, k, v, heads=self.heads, size=self.window, bias=bias, shifted=self.shifted)
        return self.proj(z).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _convolve(self, qkv: Tensor) -> Tensor:
        """Shapes: (B, H', W', 3C) to (B, C, H', W')."""
        batch, height, width, _ = qkv.shape
        projections = qkv.reshape(batch, height * width, 3 * self.heads, -1).transpose(1, 2)  # (B, 3 heads, H'W', d)
        shifts = self.fc(projections)  # (B, 9, H'W', d)
        shifts = shifts.permute(0, 3, 1, 2).reshape(batch, -1, height, width)  # (B, 9d, H', W')
        # The outputs are ordered by channels of a head first, attention's by heads; as in the released
        # code of ACmix they are added as they are.
        return self.dep_conv(shifts)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shifted={self.shifted}"


@register_token_mixer("acmix", check=check_heads)
def _build(sizes: BlockSizes) -> ACmix:
    return ACmix(sizes.channels, sizes.heads, sizes.kernel_size, shifted=sizes.block % 2 == 1)
