"""Attention with a position bias and its gradients, launched as Triton's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transxnet.kernels.cpu.attention import check
from transxnet.kernels.cuda import attention_few as few
from transxnet.kernels.cuda import attention_many as many
from transxnet.kernels.cuda.rows import cdiv, next_power_of_2
from transxnet.kernels.functional import FEW_KEYS, MOST_STORED

PROGRAMS = 1024
"""Programs that fill a device; images share a program only beyond that."""

LARGEST_GROUP = 16
"""Maximum of images that share a program, and with it a tile of the bias."""


FITTED = {
    ("few", "of_queries", False): (1, 16, 4),
    ("few", "of_queries", True): (4, 16, 8),
    ("factored", "attend", True): (1, 16, 8),
    ("factored", "of_queries", False): (8, 16, 4),
    ("factored", "of_keys", True): (1, 64, 8),
}
"""Rows and warps where a plan's own would spill registers, with the most channels read at once for which they would.

By the form of attention, the kernel, and whether maps are of float32.
"""


class Tokens(NamedTuple):
    """A map as its pixels, with the channels of each side by side.

    Attributes:
        x: (B, C, H, W), whose memory the kernels read.
        strides: Elements from an image to the next, and from a pixel to the next.
    """

    x: Tensor
    strides: tuple[int, int]


def tokens(x: Tensor) -> Tokens:
    """A map's pixels, without a copy where the channels are last in memory, also for a slice of the channels."""
    batch, channels, height, width = x.shape
    step = x.stride(3) if width > 1 else x.stride(2) if height > 1 else channels
    regular = (height == 1 or width == 1 or x.stride(2) == width * step) and (channels == 1 or x.stride(1) == 1)
    if not regular:
        x = torch.empty(batch, height, width, channels, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2).copy_(x)
        return Tokens(x, (height * width * channels, channels))
    return Tokens(x, (x.stride(0), step))


def forward(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, scale: float) -> Tensor:
    """Attention from all pixels of a map to those of another; arguments as for the operator.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    check(q, kv, bias, columns, heads)
    kv = kv.to(q.dtype)
    out = torch.empty_like(q, memory_format=torch.channels_last)
    bias, columns = _taken(bias, columns, q.dtype, kv)
    plan, maps = Plan.of(q, kv, heads, bias, columns), (tokens(q), tokens(kv))
    plan, kernel = plan.fitted("attend", *maps), few.attend if plan.is_few else many.attend
    _launch(kernel, plan, plan.grid, maps, bias=bias, columns=columns, out=out, scale=scale)
    return out


def backward(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    scale: float, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the queries, of the keys and values, and of the bias, which is empty unless requested."""
    given, given_columns, kv_type = bias, columns, kv.dtype
    kv = kv.to(q.dtype)
    bias, columns = _taken(bias, columns, q.dtype, kv)
    plan, maps = Plan.of(q, kv, heads, bias, columns), (tokens(gradient.to(q.dtype)), tokens(q), tokens(kv))
    images, queries, keys, _ = plan.sizes
    parts = bias.new_empty((plan.grid[2], *bias.shape[1:]) if of_bias else 0, dtype=torch.float32)
    arguments: dict[str, Any] = {
        "bias": bias, "columns": columns, "scale": scale, "bias_gradient": parts, "rows_gradient": parts,
        "out": out.contiguous(memory_format=torch.channels_last),
        "q_gradient": torch.empty_like(q, memory_format=torch.channels_last),
        "statistics": None if plan.is_few else parts.new_empty(images, heads, 2, queries),
        "OF_BIAS": of_bias, "OF_ROWS": of_bias and columns is not None,
    }  # fmt: skip
    module: Any = few if plan.is_few else many
    of_queries = plan.fitted("of_queries", *maps)
    _launch(module.of_queries, of_queries, of_queries.grid, maps, **arguments)
    if of_bias and not plan.is_few and columns is None:
        grid = (plan.grid[0], heads * cdiv(keys, plan.block), plan.grid[2])
        _launch(many.of_bias, plan, grid, maps, **arguments)
    kv_gradient = _of_keys(module.of_keys, plan.fitted("of_keys", *maps), maps, kv, **arguments).to(kv_type)
    if not of_bias:
        return arguments["q_gradient"], kv_gradient, given.new_empty(0)
    summed = parts if len(parts) == 1 else parts.sum(0, keepdim=True)
    if given_columns is not None and columns is None:
        summed = _multiplied(summed, given_columns)
    return arguments["q_gradient"], kv_gradient, summed.to(given.dtype)


def _of_keys(kernel: Any, plan: Plan, maps: tuple[Tokens, ...], kv: Tensor, **arguments: Any) -> Tensor:
    """Gradients of keys and values, a sum of those from some parts of the queries."""
    images, queries, keys, channels = plan.sizes
    blocks, tiles = cdiv(keys, plan.block), cdiv(queries, plan.rows)
    each = cdiv(tiles, max(1, min(tiles, PROGRAMS // (images * plan.heads * blocks))))
    parts = cdiv(tiles, each)
    summed = torch.empty(parts, images, keys, 2 * channels, dtype=torch.float32, device=kv.device)
    _launch(kernel, plan, (images * blocks, plan.heads, parts), maps, kv_gradient=summed, TILES=each, **arguments)
    summed = summed.sum(0).to(kv.dtype).reshape(images, *kv.shape[2:], 2 * channels).permute(0, 3, 1, 2)
    return summed.contiguous()  # as the operator's shapes have it


def _launch(kernel: Any, plan: Plan, grid: tuple[int, int, int], maps: Sequence[Tokens], **arguments: Any) -> None:
    """Launch a kernel with those of the arguments that it has."""
    names = ("gradient", "q", "kv")[-len(maps) :]
    for name, one in zip(names, maps, strict=True):
        arguments |= {name: one.x, f"{name[0] if name != 'kv' else name}_image": one.strides[0]}
        arguments |= {f"{name[0] if name != 'kv' else name}_pixel": one.strides[1]}
    arguments |= dict(zip(("images", "queries", "keys", "channels"), plan.sizes, strict=True))
    arguments |= {"stored": plan.stored, "GROUP": plan.group, "HEADS": plan.heads, **plan.constants(*maps)}
    known = {*kernel.arg_names, "num_warps", "num_stages"}
    kernel[grid](**{name: value for name, value in arguments.items() if name in known})


def _taken(bias: Tensor, columns: Tensor | None, dtype: torch.dtype, kv: Tensor) -> tuple[Tensor, Tensor | None]:
    """The bias as kernels take it: its factors, of the maps' type, for many keys; else the whole of it."""
    if columns is None:
        return bias.contiguous(), None
    if kv.shape[2] * kv.shape[3] <= FEW_KEYS or columns.shape[1] > MOST_STORED:
        return _multiplied(bias, columns.T), None
    return bias.to(dtype).contiguous(), columns.to(dtype).contiguous()


def _multiplied(rows: Tensor, columns: Tensor) -> Tensor:
    """A product in float32, also where autocast is on."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float()


class Plan(NamedTuple):
    """Sizes of a launch.

    Attributes:
        sizes: Images, queries, keys and channels.
        heads: Heads.
        stored: Columns of the factors of a bias, or 0.
        rows: Queries of a tile.
        block: Keys of a block.
        warps: Warps of a program.
        group: Images that share a program.
        grid: Tiles of queries, heads, groups of images.
    """

    sizes: tuple[int, int, int, int]
    heads: int
    stored: int
    rows: int
    block: int
    warps: int
    group: int
    grid: tuple[int, int, int]

    @property
    def is_few(self) -> bool:
        """Whether one block has all keys."""
        return self.sizes[2] <= FEW_KEYS

    @classmethod
    def of(cls, q: Tensor, kv: Tensor, heads: int, bias: Tensor, columns: Tensor | None) -> Plan:
        """The plan for maps and a bias of these sizes.

        Tiles are as large as registers allow: products of float32 are not computed by tensor cores.
        """
        images, channels, height, width = q.shape
        queries, keys = height * width, kv.shape[2] * kv.shape[3]
        exact = q.dtype == torch.float32
        rows, warps = (32, 8) if exact else (64, 4 if keys > FEW_KEYS else 8)
        block = max(16, next_power_of_2(keys)) if keys <= FEW_KEYS else 32
        tiles = cdiv(queries, rows)
        group = max(1, min(LARGEST_GROUP, images * tiles * heads // PROGRAMS))
        grid = (tiles, heads, cdiv(images, group))
        stored = 0 if columns is None else columns.shape[1]
        return cls((images, queries, keys, channels), heads, stored, rows, block, warps, group, grid)

    def fitted(self, kernel: str, *maps: Tokens) -> Plan:
        """The plan with the tiles of one kernel, which are smaller where registers would spill."""
        form = "few" if self.is_few else "factored" if self.stored else "whole"
        given = (8, self.rows, self.warps)
        vector, rows, warps = FITTED.get((form, kernel, maps[0].x.dtype == torch.float32), given)
        if self.vector(*maps) > vector:
            return self
        return self._replace(rows=rows, warps=warps, grid=(cdiv(self.sizes[1], rows), *self.grid[1:]))

    def vector(self, *maps: Tokens) -> int:
        """Channels, up to 8, that are read at once: all heads, pixels and images begin at multiples of it."""
        numbers: list[Any] = [self.sizes[3] // self.heads]
        numbers += [number for one in maps for number in (*one.strides, one.x.storage_offset())]
        return next(size for size in (8, 4, 2, 1) if all(number % size == 0 for number in numbers))

    def constants(self, *maps: Tokens) -> dict[str, int | str]:
        """Constants that a kernel is compiled for, and its number of warps."""
        width = self.sizes[3] // self.heads
        return {
            "WIDTH": width,
            "DEPTH": max(16, next_power_of_2(width)),
            "ROWS": self.rows,
            "KEYS": self.block,
            "STORED": max(16, next_power_of_2(self.stored)) if self.stored else 0,
            "VECTOR": self.vector(*maps),
            "PRECISION": precision(maps[0].x),
            "num_warps": self.warps,
            "num_stages": 1,  # more keep registers that would spill
        }


def precision(x: Tensor) -> str:
    """How maps are multiplied: float32 exactly, unless PyTorch's own products may be less exact."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":  # by Triton's interpreter
        return "widened"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
