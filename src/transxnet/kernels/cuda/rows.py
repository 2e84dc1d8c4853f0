"""Maps as matrices: a row for each position of each image, with the channels side by side."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 2048
"""Elements of a program's tile: 16 for each of 128 threads."""

PROGRAMS = 1024
"""Programs that a reduction is split between, several for each multiprocessor of a large GPU."""


def cdiv(number: int, divisor: int) -> int:
    """A quotient rounded up; Triton's takes as long as a small launch, since kernels may call it, too."""
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


@triton.jit
def whole(value, VECTOR: tl.constexpr):
    """A multiple of ``VECTOR``, known as such by the compiler, which then reads whole vectors."""
    return value // VECTOR * VECTOR


@triton.jit
def tail(x):
    """The standard normal distribution beyond ``|x|``, as a power of two of a fitted polynomial.

    ``|x|`` times its error is below 1e-8. ``tl.erf`` has two branches, and takes twice the instructions.
    """
    a = tl.abs(x)
    power = 1.902119376e-06
    power = power * a - 2.805752592e-05
    power = power * a + 1.314757246e-04
    power = power * a + 2.720703487e-04
    power = power * a - 7.245414890e-03
    power = power * a + 5.262760818e-02
    power = power * a + 4.591621459e-01
    power = power * a + 1.151111007
    return tl.exp2(-1.0 - power * a)


@triton.jit
def gelu(x):
    return tl.maximum(x, 0.0) - tl.abs(x) * tail(x)


@triton.jit
def gelu_slope(x):
    """The derivative of GELU."""
    within = 0.5 - tail(x)  # between 0 and |x|
    return 0.5 + tl.where(x > 0, within, -within) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


def row_step(x: Tensor) -> int | None:
    """Elements from a position to the next; None if positions are not evenly spaced with adjacent channels."""
    batch, channels, height, width = x.shape
    if channels > 1 and x.stride(1) != 1:
        return None
    step, count = channels, 1
    for size, stride in ((width, x.stride(3)), (height, x.stride(2)), (batch, x.stride(0))):
        if size == 1:
            continue
        if count == 1:
            step = stride
        elif stride != step * count:
            return None
        count *= size
    return step if step >= channels else None


def in_rows(x: Tensor) -> tuple[Tensor, int]:
    """A map (B, C, H, W) with evenly spaced positions, a copy if it has to be, and their distance in elements."""
    step = row_step(x)
    if step is None:
        x = x.clone(memory_format=torch.channels_last)
        step = x.shape[1]
    return x, step


def tile(x: Tensor, *steps: int) -> dict[str, int]:
    """Rows and channels of a program's tile, and the length of the vectors that it may read.

    Args:
        x: The map (B, C, H, W).
        *steps: Distances of positions in all maps that the program reads.
    """
    channels = x.shape[1]
    wide = min(64, next_power_of_2(channels))
    if 0 < channels % 64 <= 32 < channels:
        wide = 32  # wastes fewer lanes
    return {"ROWS": ELEMENTS // wide, "CHANNELS": wide, "VECTOR": math.gcd(channels, 8, *steps)}


def split(rows: int, blocks: int, tile_rows: int) -> tuple[int, int]:
    """Parts that rows are split into for a reduction, and the rows of a part, whole tiles.

    Args:
        rows: Their number.
        blocks: Programs for each part.
        tile_rows: Rows of a tile.
    """
    tiles = cdiv(rows, tile_rows)
    per_part = cdiv(tiles, max(1, PROGRAMS // blocks)) * tile_rows
    return cdiv(rows, per_part), per_part
