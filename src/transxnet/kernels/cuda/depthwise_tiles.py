"""Parts of the kernels of depthwise convolutions: tiles of a map, shares of its channels, sizes of programs.

Maps have their channels last in memory. A program computes a tile of ``ROWS`` x ``COLUMNS`` pixels of ``CHANNELS``
channels of one image. Sums are in float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import gelu

ROWS = 7
"""Rows of a tile; divides the sides of maps of images of 224 pixels: 56, 28, 14 and 7."""

THREADS_VALUES = 512
"""Values of a tile's row: four for each of a program's 128 threads."""

MAX_CHANNELS = 64
"""Maximum of a tile's channels."""


@triton.jit
def replaced(values, index: tl.constexpr, value):
    """A tuple with another value at an index."""
    return values[:index] + (value,) + values[index + 1 :]


@triton.jit
def share_of(program, first, share, CHANNELS: tl.constexpr):
    """The share of the channels of a program: its index, its first channel and its count, and the program's channels.

    The first share has ``first`` channels, the others have ``share``. Written without conditions, so that the compiler
    finds by what the results can be divided.
    """
    of_first, of_others = tl.cdiv(first, CHANNELS), tl.cdiv(share, CHANNELS)
    part = tl.maximum(program - of_first + of_others, 0) // of_others
    is_later, between = tl.minimum(part, 1), tl.maximum(part - 1, 0)
    start = is_later * first + between * share
    count = first + is_later * (share - first)
    within = (program - is_later * of_first - between * of_others) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return part, start, count, within


@triton.jit
def row_of(x, row, column, x_h, x_w, inside, height, width, scale, shift, AFFINE: tl.constexpr):
    """A row of a map, after an affine map, as float32, zero outside the map; ``x`` points to channels of pixel 0."""
    known = (row >= 0) & (row < height) & (column >= 0) & (column < width) & inside
    value = tl.load(x + row * x_h + column * x_w, mask=known, other=0.0).to(tl.float32)
    if AFFINE:
        value = tl.where(known, value * scale + shift, 0.0)
    return value


@triton.jit
def tile(
    x, weight, start, scale, shift, out, row, column, inside, height, width, x_h, x_w, out_h, out_w, w_y, w_x,
    SIZE: tl.constexpr, IDENTITY: tl.constexpr, AFFINE: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A tile of a convolution; pointers point to the program's channels.

    The weights of one column of the kernel are in registers while ``ROWS + SIZE - 1`` rows of the map pass: each value
    is loaded and converted once for all rows to which it contributes. All columns at once would not fit in registers.
    """
    pad: tl.constexpr = SIZE // 2
    sums = (tl.zeros((COLUMNS, CHANNELS), tl.float32) + start,) * ROWS
    for kx in range(SIZE):
        weights = (tl.load(weight + kx * w_x, mask=inside, other=0.0).to(tl.float32),)
        for ky in tl.static_range(1, SIZE):
            weights = weights + (tl.load(weight + kx * w_x + ky * w_y, mask=inside, other=0.0).to(tl.float32),)
        for source in tl.static_range(ROWS + 2 * pad):
            value = row_of(
                x, row + source - pad, column + kx - pad, x_h, x_w, inside, height, width, scale, shift, AFFINE
            )
            for target in tl.static_range(ROWS):
                if source >= target and source - target < SIZE:
                    sums = replaced(sums, target, sums[target] + value * weights[source - target])
    for target in tl.static_range(ROWS):
        result = sums[target]
        if IDENTITY:
            result += row_of(x, row + target, column, x_h, x_w, inside, height, width, scale, shift, AFFINE)
        result = gelu(result) if GELU else result
        known = (row + target < height) & (column < width) & inside
        tl.store(out + (row + target) * out_h + column * out_w, result.to(out.dtype.element_ty), mask=known)


def laid_out(x: Tensor) -> Tensor:
    """The map itself if its channels are adjacent in memory, as in a slice of one with the channels last, or a copy."""
    adjacent = x.stride(1) == 1 or x.shape[1] == 1
    return x if adjacent else x.contiguous(memory_format=torch.channels_last)


def steps(x: Tensor) -> tuple[int, int, int]:
    """Elements between the images, rows and columns of a map."""
    return x.stride(0), x.stride(2), x.stride(3)


def vector(*maps: Tensor, channels: Sequence[int]) -> int:
    """Values that a thread may load at once: a divisor of all offsets in the maps, up to 8."""
    numbers = [number for one in maps for number in (one.data_ptr() // one.element_size(), *steps(one))]
    return math.gcd(8, *channels, *numbers)


def blocks(width: int, channels: int) -> dict[str, int]:
    """Columns and channels of a tile, powers of two, for a map's width and the channels of a share."""
    deep = min(triton.next_power_of_2(channels), MAX_CHANNELS // 2)
    columns = max(min(triton.next_power_of_2(width), THREADS_VALUES // deep), 2)
    if columns * deep < THREADS_VALUES and channels > deep:
        deep = min(triton.next_power_of_2(channels), MAX_CHANNELS)
    return {"COLUMNS": columns, "CHANNELS": deep}


def before(counts: Sequence[int], *, with_first: bool = False) -> tuple[int, ...]:
    """Sums of the counts before each, with or without the first one's."""
    return tuple(itertools.accumulate([0, counts[0] if with_first else 0, *counts[1:-1]]))[: len(counts)]


def channel_blocks(channels: Sequence[int], block: int) -> int:
    """Programs that take ``block`` channels of a share each, of all shares."""
    return sum(triton.cdiv(count, block) for count in channels)
