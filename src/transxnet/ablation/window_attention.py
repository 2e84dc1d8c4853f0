"""Window attention of Table VI: the locally-grouped attention of Chu et al., "Twins", NeurIPS 2021."""

from __future__ import annotations

from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_in_windows, padded
from transxnet.errors import ConfigError
from transxnet.layers.registry import BlockSizes, register_local_operator


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
        q, k, v = self.qkv(x).permute(0, 2, 3, 1).chunk(3, dim=-1)  # each (B, H', W', C)
        z = attend_in_windows(q, k, v, heads=self.heads, size=self.window)
        return z[:, :height, :width].permute(0, 3, 1, 2)


def _check(sizes: BlockSizes) -> None:
    if sizes.channels % sizes.heads:
        raise ConfigError(f"{sizes.heads} heads cannot divide the {sizes.channels} channels of window attention evenly")


@register_local_operator("window_attention", check=_check)
def _build(sizes: BlockSizes) -> WindowAttention:
    return WindowAttention(sizes.channels, sizes.heads, sizes.kernel_size)
