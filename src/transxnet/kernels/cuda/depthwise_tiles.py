"""Parts of the kernels of depthwise convolutions: tiles of a map, shares of its channels, sizes of programs.

Maps have their channels last in memory. A program computes a tile of ``ROWS`` x ``COLUMNS`` pixels of ``CHANNELS``
channels of one image. Sums are in float32.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import cdiv, gelu, next_power_of_2

ROWS = 7
"""Rows of a tile; divides the sides of maps of images of 224 pixels: 56, 28, 14 and 7."""

WARP_VALUES = 128
"""Values of a tile's row that a warp computes: four in each thread."""

WARPS = (4, 2, 1)
"""Warps of a program."""

CHANNELS = (32, 16, 64, 8, 4, 2, 1)
"""Channels of a tile: those that are read and stored in whole sectors of memory first."""


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
def row_of(x, row, offset, x_h, inside, height):
    """A row of a map as float32, zero outside the map.

    ``x`` points to the image, which is the same in all threads, as is the row: only ``offset``, of a pixel's channels
    in their row, is computed by each thread. ``inside``: whether they are in the map.
    """
    known = inside & (row >= 0) & (row < height)
    return tl.load(x + row * x_h + offset, mask=known, other=0.0).to(tl.float32)


@triton.jit
def summed(
    x, weight, sums, row, column, channel, inside, height, width, x_h, x_w, w_y, w_x, SIZE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The rows' ``sums`` with a convolution's products; ``x`` points to the image, ``weight`` to the channels.

    The weights of one column of the kernel are in registers while ``ROWS + SIZE - 1`` rows of the map pass: each value
    is loaded and converted once for all rows to which it contributes. All columns at once would not fit in registers.
    """
    pad: tl.constexpr = SIZE // 2
    for kx in range(SIZE):
        weights = (tl.load(weight + kx * w_x, mask=inside, other=0.0).to(tl.float32),)
        for ky in tl.static_range(1, SIZE):
            weights = weights + (tl.load(weight + kx * w_x + ky * w_y, mask=inside, other=0.0).to(tl.float32),)
        given = column + kx - pad
        known, offset = (given >= 0) & (given < width) & inside, given * x_w + channel
        for source in tl.static_range(ROWS + 2 * pad):
            value = row_of(x, row + source - pad, offset, x_h, known, height)
            for target in tl.static_range(ROWS):
                if source >= target and source - target < SIZE:
                    sums = replaced(sums, target, sums[target] + value * weights[source - target])
    return sums


@triton.jit
def store(
    sums, edges, size, x, out, row, column, channel, inside, height, width, x_h, x_w, out_h, out_w, step,
    IDENTITY: tl.constexpr, SHIFT: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Complete the rows of a convolution by kernels of a size, and store them."""
    known, whole_rows = (column < width) & inside, sums[0]
    if SHIFT:
        whole_rows = of_shift(edges, 0, size, column, width, inside, step, size)
    for target in tl.static_range(ROWS):
        result, y = sums[target], row + target
        if SHIFT:
            top, bottom = limits(y, height, size)
            if bottom - top < size:
                result += of_shift(edges, top, bottom, column, width, inside, step, size)
            else:
                result += whole_rows
        if IDENTITY:
            result += row_of(x, y, column * x_w + channel, x_h, known, height)
        result = gelu(result) if GELU else result
        to = out + y * out_h + (column * out_w + channel)
        tl.store(to, result.to(out.dtype.element_ty), mask=known & (y < height))


@triton.jit
def limits(position, length, size):
    """The first position of a kernel that is in the map, along one side, and the end of them."""
    begin = tl.minimum(tl.maximum(size // 2 - position, 0), size)
    return begin, tl.maximum(tl.minimum(length + size // 2 - position, size), 0)


@triton.jit
def of_shift(edges, top, bottom, column, width, inside, step, size):
    """What a shift of the map adds to a row of the result, whose kernels have the rows from top to bottom in the map.

    ``edges`` has, for y and x up to ``size``, the sums over the kernel's first y rows and first x columns.
    """
    left, right = limits(column, width, size)
    above, below = edges + top * (size + 1) * step, edges + bottom * (size + 1) * step
    upper = tl.load(above + right * step, mask=inside, other=0.0) - tl.load(above + left * step, mask=inside, other=0.0)
    lower = tl.load(below + right * step, mask=inside, other=0.0) - tl.load(below + left * step, mask=inside, other=0.0)
    return lower - upper


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


@functools.cache
def blocks(width: int, channels: int) -> dict[str, int]:
    """Columns and channels of a tile, powers of two, and warps, for a map's width and the channels of a share.

    As few of their threads as possible are beyond the map and the channels.
    """
    largest = next_power_of_2(channels)
    options = [
        (cdiv(channels, deep) * deep * cdiv(width, columns) * columns, warps, deep, columns)
        for warps in WARPS
        for deep in CHANNELS
        for columns in [warps * WARP_VALUES // deep]
        if deep <= max(largest, 8) and (columns <= next_power_of_2(width) or warps == 1) and columns > 1
    ]
    _, warps, deep, columns = min(options, key=lambda one: (one[0], CHANNELS.index(one[2]), -one[1]))
    return {"COLUMNS": columns, "CHANNELS": deep, "num_warps": warps}


def before(counts: Sequence[int], *, with_first: bool = False) -> tuple[int, ...]:
    """Sums of the counts before each, with or without the first one's."""
    return tuple(itertools.accumulate([0, counts[0] if with_first else 0, *counts[1:-1]]))[: len(counts)]


def channel_blocks(channels: Sequence[int], block: int) -> int:
    """Programs that take ``block`` channels of a share each, of all shares."""
    return sum(cdiv(count, block) for count in channels)
