"""Attention with a position bias and its gradients, launched as Triton's kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from transxnet.kernels.cpu.attention import check
from transxnet.kernels.cuda import attention_few as few

PROGRAMS = 1024
"""Programs that fill a device; images share a program only beyond that."""

LARGEST_GROUP = 16
"""Maximum of images that share a program, and with it a tile of the bias."""


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
    out = torch.empty_like(q, memory_format=torch.channels_last)
    whole = _whole(bias, columns)
    plan = Plan.of(q, kv, heads, rows=64)
    given, pairs = tokens(q), tokens(kv)
    few.attend[plan.grid](
        given.x, pairs.x, whole, out, *plan.sizes, scale, *given.strides, *pairs.strides, plan.group, heads,
        **plan.constants(given, pairs),
    )  # fmt: skip
    return out


def backward(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    scale: float, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the queries, of the keys and values, and of the bias, which is empty unless requested."""
    q_gradient = torch.empty_like(q, memory_format=torch.channels_last)
    whole = _whole(bias, columns)
    plan = Plan.of(q, kv, heads, rows=64)
    maps = (tokens(gradient.to(q.dtype)), tokens(q), tokens(kv))
    inputs, strides = [one.x for one in maps], [step for one in maps for step in one.strides]
    groups = plan.grid[2]
    parts = whole.new_empty((groups, *whole.shape[1:]) if of_bias else 0, dtype=torch.float32)
    few.of_queries[plan.grid](
        *inputs, whole, q_gradient, parts, *plan.sizes, scale, *strides, plan.group, heads, OF_BIAS=of_bias,
        **plan.constants(*maps),
    )  # fmt: skip
    kv_gradient = _of_keys(plan, maps, whole, kv, heads, scale)
    if not of_bias:
        return q_gradient, kv_gradient, bias.new_empty(0)
    of_whole = parts if groups == 1 else parts.sum(0, keepdim=True)
    return q_gradient, kv_gradient, (of_whole if columns is None else of_whole @ columns.float()).to(bias.dtype)


def _of_keys(
    plan: Plan, maps: tuple[Tokens, Tokens, Tokens], whole: Tensor, kv: Tensor, heads: int, scale: float
) -> Tensor:
    """Gradients of keys and values, a sum of some parts of the queries."""
    images, queries, keys, channels = plan.sizes
    tiles = triton.cdiv(queries, plan.rows)
    parts = max(1, min(tiles, PROGRAMS // (images * heads)))
    each = triton.cdiv(tiles, parts)
    parts = triton.cdiv(tiles, each)
    summed = torch.empty(parts, images, keys, 2 * channels, dtype=torch.float32, device=kv.device)
    few.of_keys[images, heads, parts](
        *(one.x for one in maps), whole, summed, *plan.sizes, scale, *(step for one in maps for step in one.strides),
        each, **plan.constants(*maps),
    )  # fmt: skip
    last = summed.sum(0).to(kv.dtype).reshape(images, *kv.shape[2:], 2 * channels)
    return last.permute(0, 3, 1, 2)


def _whole(bias: Tensor, columns: Tensor | None) -> Tensor:
    """The bias (1, heads, N, M)."""
    return bias.contiguous() if columns is None else bias.float() @ columns.float().T


class Plan(NamedTuple):
    """Sizes of a launch.

    Attributes:
        sizes: Images, queries, keys and channels.
        width: Channels of a head.
        rows: Queries of a tile.
        group: Images that share a program.
        grid: Tiles of queries, heads, groups of images.
    """

    sizes: tuple[int, int, int, int]
    width: int
    rows: int
    group: int
    grid: tuple[int, int, int]

    @classmethod
    def of(cls, q: Tensor, kv: Tensor, heads: int, rows: int) -> Plan:
        """The plan for maps of these sizes, with tiles of ``rows`` queries."""
        images, channels, height, width = q.shape
        queries, keys = height * width, kv.shape[2] * kv.shape[3]
        tiles = triton.cdiv(queries, rows)
        group = max(1, min(LARGEST_GROUP, images * tiles * heads // PROGRAMS))
        grid = (tiles, heads, triton.cdiv(images, group))
        return cls((images, queries, keys, channels), channels // heads, rows, group, grid)

    def constants(self, *maps: Tokens) -> dict[str, int | str]:
        """Constants that a kernel is compiled for, and its number of warps."""
        numbers = [self.width, self.sizes[3], *(step for one in maps for step in one.strides)]
        numbers += [one.x.storage_offset() for one in maps]
        return {
            "WIDTH": self.width,
            "DEPTH": max(16, triton.next_power_of_2(self.width)),
            "ROWS": self.rows,
            "KEYS": max(16, triton.next_power_of_2(self.sizes[2])),
            "VECTOR": next(size for size in (8, 4, 2, 1) if all(number % size == 0 for number in numbers)),
            "PRECISION": precision(maps[0].x),
            "num_warps": 4,
        }


def precision(x: Tensor) -> str:
    """How maps are multiplied: float32 exactly, unless PyTorch's own products may be less exact."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return "widened"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
