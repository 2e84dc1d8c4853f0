"""The relative position bias B of equation 3."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.config import PositionBiasResize


@register_notrace_module
class PositionBias(nn.Module):
    """One table of biases for each pair of query and key position, shared by a stage's blocks.

    The table has N x M entries for each head: N = H * W queries and M = ceil(H / S) * ceil(W / S)
    keys. A map of another size has a bias resized from the table, computed once for the stage.

    Args:
        heads: Attention heads.
        grid: Height and width (H, W) of the map the table is stored for.
        reduction: Stride S of the keys.
        resize: See :class:`~transxnet.config.TransXNetConfig`.
    """

    def __init__(
        self, heads: int, grid: tuple[int, int], reduction: int, resize: PositionBiasResize = "flattened"
    ) -> None:
        super().__init__()
        self.grid = grid
        self.reduction = reduction
        self.resize = resize
        queries, keys = (height * width for height, width in (grid, self._key_grid(grid)))
        self.table = nn.Parameter(torch.zeros(1, heads, queries, keys))

    def forward(self, x: Tensor) -> Tensor:
        """The bias for a map of the size of ``x``.

        Shapes: (B, C, H', W') to (1, heads, N', M').
        """
        return self.resized((x.shape[-2], x.shape[-1]))

    def resized(self, grid: tuple[int, int]) -> Tensor:
        """The bias (1, heads, N', M') for a map of the height and width ``grid``."""
        if self.resize == "geometric":
            return self._resized_geometrically(grid)
        (height, width), (key_height, key_width) = grid, self._key_grid(grid)
        size = (height * width, key_height * key_width)
        if self.table.shape[-2:] == size:
            return self.table
        return F.interpolate(self.table, size=size, mode="bicubic", align_corners=False)

    def _resized_geometrically(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.table
        heads = self.table.shape[1]
        keys, new_keys = self._key_grid(self.grid), self._key_grid(grid)
        # The query axes are resampled with the keys as channels, then the key axes.
        bias = self.table.reshape(heads, *self.grid, -1).permute(0, 3, 1, 2)  # (heads, M, H, W)
        bias = F.interpolate(bias, size=grid, mode="bicubic", align_corners=False)
        bias = bias.flatten(2).transpose(1, 2).reshape(heads, -1, *keys)  # (heads, N', H/S, W/S)
        bias = F.interpolate(bias, size=new_keys, mode="bicubic", align_corners=False)
        return bias.flatten(2).unsqueeze(0)  # (1, heads, N', M')

    @torch.no_grad()
    def set_grid(self, grid: tuple[int, int]) -> None:
        """Store the table for another map, resized from this one; the parameter is a new one."""
        if grid != self.grid:
            table = self.resized(grid).clone()
            self.table = nn.Parameter(table, requires_grad=self.table.requires_grad)
            self.grid = grid

    def _key_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        return -(-grid[0] // self.reduction), -(-grid[1] // self.reduction)

    def extra_repr(self) -> str:
        return f"heads={self.table.shape[1]}, grid={self.grid}, reduction={self.reduction}, resize={self.resize!r}"
