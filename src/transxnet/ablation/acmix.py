"""ACmix block of Table V: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022."""

from __future__ import annotations

import torch
from timm.layers import RelPosBias, register_notrace_module
from torch import Tensor, nn

from transxnet.ablation.windows import attend_inside, from_windows, padded, shift_mask, shift_of, to_windows


@register_notrace_module
class ACmix(nn.Module):
    """Window attention and a convolution that share their projections q, k and v.

    The convolution is the paper's: the 3 x heads projections are mixed into the nine places of a
    3x3 kernel, whose shifts and sum are a grouped convolution that starts as pure shifts. As in
    Swin-ACmix, the windows of every other block are shifted; the convolution is not, so that the
    shift's seam does not cut through it.

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
        self.dep_conv.weight.copy_(torch.eye(9).reshape(9, 3, 3))  # one place for each input of a group

    def forward(self, x: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Shapes: (B, C, H, W) to the same; the windows have a position bias of their own."""
        qkv = self.qkv(x.permute(0, 2, 3, 1))  # (B, H, W, 3C)
        return self.rate1 * self._attend(qkv) + self.rate2 * self._convolve(qkv)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Shapes: (B, H, W, 3C) to (B, C, H, W)."""
        height, width = qkv.shape[1:3]
        qkv = padded(qkv, self.window)
        size = (qkv.shape[1], qkv.shape[2])
        bias = self.position_bias.get_bias()
        shift = shift_of(self.window, *size) if self.shifted else (0, 0)
        if any(shift):
            qkv = torch.roll(qkv, (-shift[0], -shift[1]), dims=(1, 2))
            bias = bias + shift_mask(self.window, *size, shift, qkv.device)
        q, k, v = to_windows(qkv, self.window).chunk(3, dim=-1)  # each (B, windows, N, C)
        z = self.proj(attend_inside(q, k, v, self.heads, bias))
        z = from_windows(z, self.window, *size)
        if any(shift):
            z = torch.roll(z, shift, dims=(1, 2))
        return z[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, qkv: Tensor) -> Tensor:
        """Shapes: (B, H, W, 3C) to (B, C, H, W)."""
        batch, height, width, _ = qkv.shape
        projections = qkv.reshape(batch, height * width, 3 * self.heads, -1).transpose(1, 2)  # (B, 3 heads, HW, d)
        places = self.fc(projections)  # (B, 9, HW, d)
        places = places.permute(0, 3, 1, 2).reshape(batch, -1, height, width)  # (B, 9d, H, W)
        # Output g * heads + h of the grouped convolution belongs to channel g of head h.
        return self.dep_conv(places)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shifted={self.shifted}"
