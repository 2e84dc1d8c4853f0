"""The relative position bias B of equation 3."""

from __future__ import annotations

from typing import Literal, Self

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.kernels import Bias, FactoredBias, prefers_factors
from transxnet.layers.folding import Folding

PositionBiasResize = Literal["flattened", "geometric"]

LARGEST_MAP = 64 * 2**20
"""Bytes of a resized bias above which it stays in factors, in evaluation."""

LARGEST_SCORES = 16 * 2**20
"""Bytes of a batch's attention scores above which the bias stays in factors, in training."""

LARGEST_RESIZED = 2**20
"""Bytes above which a resized bias is the product of its factors: interpolating all of it takes ten times as long."""


@register_notrace_module
class PositionBias(nn.Module):
    """One table of biases for each pair of query and key position, shared by a stage's blocks.

    The table has N x M entries for each head: N = H * W queries and M = ceil(H / S) * ceil(W / S)
    keys. A map of another size has a bias resized from the table, computed once for the stage; a large
    one as its factors (:class:`FactoredBias`), which attention multiplies out piece by piece.

    Args:
        heads: Attention heads.
        grid: Height and width (H, W) of the map the table is stored for.
        reduction: Stride S of the keys.
        resize: See :class:`~transxnet.config.TransXNetConfig`.

    Attributes:
        dynamic_size: Resize without asking whether it is needed, for an export for many sizes.
    """

    def __init__(
        self, heads: int, grid: tuple[int, int], reduction: int, resize: PositionBiasResize = "flattened"
    ) -> None:
        super().__init__()
        self.grid = grid
        self.reduction = reduction
        self.resize = resize
        self.table = nn.Parameter(torch.zeros(1, heads, *self._size(grid)))
        self.dynamic_size = False

    def forward(self, x: Tensor) -> Bias:
        """The bias for a map of the size of ``x``: its factors where the whole would be large.

        In training a resized bias has a gradient as large as itself, and attention with it keeps
        its scores in every block; so their size decides there.

        Shapes: (B, C, H', W') to (1, heads, N', M').
        """
        grid = (x.shape[-2], x.shape[-1])
        training = torch.is_grad_enabled()
        size = self._bytes(grid) * (x.shape[0] if training else 1)
        if not self.dynamic_size and not self._is_stored(grid) and prefers_factors(x, self._size(grid)[1]):
            return self.factored(grid)
        if self.dynamic_size or self._is_stored(grid) or size <= (LARGEST_SCORES if training else LARGEST_MAP):
            return self.resized(grid)
        return self.factored(grid)

    def resized(self, grid: tuple[int, int]) -> Tensor:
        """The bias (1, heads, N', M') for a map of the height and width ``grid``."""
        if self.dynamic_size or (self._bytes(grid) > LARGEST_RESIZED and not self._is_stored(grid)):
            return self.factored(grid).multiplied()
        if self.resize == "geometric":
            return self._along_keys(self._along_queries(grid), grid)
        if self._is_stored(grid):
            return self.table
        return F.interpolate(self.table, size=self._size(grid), mode="bicubic", align_corners=False)

    def factored(self, grid: tuple[int, int]) -> FactoredBias:
        """The factors of :meth:`resized`."""
        keys = self.table.shape[-1]
        identity = torch.eye(keys, dtype=self.table.dtype, device=self.table.device).reshape(1, 1, keys, keys)
        queries, new_keys = self._size(grid)
        if self.resize == "geometric":
            return FactoredBias(self._along_queries(grid), self._along_keys(identity, grid)[0, 0].T)
        rows = F.interpolate(self.table, size=(queries, keys), mode="bicubic", align_corners=False)
        columns = F.interpolate(identity, size=(new_keys, keys), mode="bicubic", align_corners=False)
        return FactoredBias(rows, columns[0, 0])

    def _is_stored(self, grid: tuple[int, int]) -> bool:
        """Whether the table is the bias for this map."""
        return grid == self.grid if self.resize == "geometric" else self.table.shape[-2:] == self._size(grid)

    def _bytes(self, grid: tuple[int, int]) -> int:
        if self.table.is_meta:  # takes none; and what is counted there is not to depend on the form
            return 0
        queries, keys = self._size(grid)
        return self.table.shape[1] * queries * keys * self.table.element_size()

    def _along_queries(self, grid: tuple[int, int]) -> Tensor:
        """The table (1, heads, N, M) resampled to (1, heads, N', M) along the queries' two axes, keys as channels."""
        if not self.dynamic_size and grid == self.grid:
            return self.table
        heads = self.table.shape[1]
        bias = self.table.reshape(heads, *self.grid, -1).permute(0, 3, 1, 2)  # (heads, M, H, W)
        bias = F.interpolate(bias, size=grid, mode="bicubic", align_corners=False)
        return bias.flatten(2).transpose(1, 2).unsqueeze(0)

    def _along_keys(self, bias: Tensor, grid: tuple[int, int]) -> Tensor:
        """A bias (1, heads, N, M) resampled to (1, heads, N, M') along the keys' two axes, queries as channels."""
        if not self.dynamic_size and grid == self.grid:
            return bias
        keys, new_keys = self._key_grid(self.grid), self._key_grid(grid)
        bias = bias.reshape(bias.shape[1], -1, *keys)  # (heads, N, H/S, W/S)
        return F.interpolate(bias, size=new_keys, mode="bicubic", align_corners=False).flatten(2).unsqueeze(0)

    @torch.no_grad()
    def set_grid(self, grid: tuple[int, int]) -> None:
        """Store the table for another map, resized from this one; the parameter is a new one."""
        if grid != self.grid:
            table = self.resized(grid).clone()
            self.table = nn.Parameter(table, requires_grad=self.table.requires_grad)
            self.grid = grid

    def _size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Queries and keys of a map."""
        keys = self._key_grid(grid)
        return grid[0] * grid[1], keys[0] * keys[1]

    def _key_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        # Not -(-x // s): in ONNX and OpenVINO integers are divided towards zero.
        return (grid[0] + self.reduction - 1) // self.reduction, (grid[1] + self.reduction - 1) // self.reduction

    def folded(self, folding: Folding) -> Self:
        """As of :mod:`transxnet.layers.folding`."""
        self.dynamic_size = folding.dynamic_size
        return self

    def extra_repr(self) -> str:
        return f"heads={self.table.shape[1]}, grid={self.grid}, reduction={self.reduction}, resize={self.resize!r}"
