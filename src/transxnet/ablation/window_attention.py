"""Window attention of Table VI: the locally-grouped attention of Chu et al., "Twins", NeurIPS 2021."""

from __future__ import annotations

from timm.layers import register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_inside, from_windows, padded, to_windows


@register_notrace_module
class WindowAttention(nn.Module):
    """Attention inside windows side by side, without a position bias or an output projection.

    The map is padded with zeros to whole windows first.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Attention heads.
        window: Side of a window.
    """

    def __init__(self, channels: int, heads: int, window: int = 7) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        height, width = x.shape[-2:]
        x = padded(x.permute(0, 2, 3, 1), self.window).permute(0, 3, 1, 2)  # (B, C, H', W')
        qkv = self.qkv(x).permute(0, 2, 3, 1)  # (B, H', W', 3C)
        q, k, v = to_windows(qkv, self.window).chunk(3, dim=-1)  # each (B, windows, N, C)
        z = from_windows(attend_inside(q, k, v, self.heads), self.window, qkv.shape[1], qkv.shape[2])
        return z[:, :height, :width].permute(0, 3, 1, 2)
