"""Attention inside windows, which Swin, the mixing block, ACmix and Twins share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from transxnet.kernels import attend
from transxnet.layers.patch_embed import to_multiple


def padded(x: Tensor, size: int) -> Tensor:
    """Zeros at the bottom and on the right, up to multiples of ``size``. Shapes: (B, H, W, C) to (B, H', W', C)."""
    bottom, right = to_multiple(x.shape[1], size), to_multiple(x.shape[2], size)
    # Sizes that are not known when the network is exported are no int.
    whole = isinstance(bottom, int) and isinstance(right, int) and not (bottom or right)
    return x if whole else F.pad(x, (0, 0, 0, right, 0, bottom))


def to_windows(x: Tensor, size: int) -> Tensor:
    """Shapes: (B, H, W, C), H and W multiples of ``size``, to (B, windows, size², C), windows row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels).transpose(2, 3)
    return x.reshape(batch, -1, size * size, channels)


def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`to_windows`. Shapes: (B, windows, size², C) to (B, H, W, C)."""
    batch, _, _, channels = x.shape
    x = x.reshape(batch, height // size, width // size, size, size, channels).transpose(2, 3)
    return x.reshape(batch, height, width, channels)


def attend_in_windows(
    q: Tensor, k: Tensor, v: Tensor, *, heads: int, size: int, bias: Tensor | None = None, shifted: bool = False
) -> Tensor:
    """Multi-head attention of every window to itself.

    Args:
        q: Queries, a map (B, H, W, C) of whole windows.
        k: Keys, as q.
        v: Values, as q.
        heads: Attention heads.
        size: Side of a window.
        bias: Added to the scores, (1, heads, size², size²).
        shifted: Whether the windows are shifted by half their size, cyclically and without
            attention across the map's borders.

    Returns:
        (B, H, W, C).
    """
    height, width = q.shape[1:3]
    shift = _shift(size, height, width) if shifted else (0, 0)
    if any(shift):
        q, k, v = (torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2)) for x in (q, k, v))
        mask = shift_mask(size, height, width, shift, q.device)
        bias = mask if bias is None else bias + mask  # (windows, heads, N, N)
    windows = (height // size) * (width // size)

    def split(x: Tensor) -> Tensor:  # (B, windows * heads, N, d)
        tokens = to_windows(x, size)  # (B, windows, N, C)
        return tokens.reshape(*tokens.shape[:3], heads, -1).transpose(2, 3).flatten(1, 2)

    if bias is not None:
        bias = bias.expand(windows, heads, -1, -1).reshape(1, windows * heads, size**2, size**2)
    z = attend(split(q), split(k), split(v), bias)
    z = z.unflatten(1, (windows, heads)).transpose(2, 3).flatten(3)  # (B, windows, N, C)
    z = from_windows(z, size, height, width)
    return torch.roll(z, shift, dims=(1, 2)) if any(shift) else z


def _shift(size: int, height: int, width: int) -> tuple[int, int]:
    """How far shifted windows of a padded map (H, W) move: half a window, not at all where there is one."""
    return (size // 2 if height > size else 0), (size // 2 if width > size else 0)


def shift_mask(size: int, height: int, width: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """Forbids attention between positions that only the cyclic shift has brought together.

    Returns:
        0 or minus infinity, (windows, 1, size², size²), to be added to the scores.
    """
    rows, columns = (_origins(length, size, by, device) for length, by in zip((height, width), shift, strict=True))
    regions = (3 * rows[:, None] + columns)[None, :, :, None]  # (1, H, W, 1)
    region = to_windows(regions, size).squeeze(0)  # (windows, size², 1)
    apart = region != region.transpose(1, 2)  # (windows, size², size²)
    return torch.zeros(apart.shape, device=device).masked_fill(apart, float("-inf")).unsqueeze(1)


def _origins(length: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Of the last window along an axis: which part is from the end (1), and which from the start (2). (length)."""
    position = torch.arange(length, device=device)
    return (position >= length - size).long() + (position >= length - shift).long()
