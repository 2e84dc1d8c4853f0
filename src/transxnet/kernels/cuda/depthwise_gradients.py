"""Gradients of the kernels and biases of depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.depthwise_tiles import (
    before,
    blocks,
    channel_blocks,
    replaced,
    row_of,
    share_of,
    steps,
    vector,
)
from transxnet.kernels.cuda.rows import cdiv, next_power_of_2, whole

UNROLLED = tl.constexpr(7)
"""Rows that pass in one turn of the loop, whose loads do not wait for each other."""

MAX_ROWS = 56
"""Maximum of the rows of a program, a multiple of ``UNROLLED``."""

MAX_STEP = 64
"""Maximum of the partial sums that are added at a time."""


@triton.jit
def column_of_kernel(
    x, gradient, out, row, column, channel, kx, inside, height, width, x_h, x_w, g_h, g_w, count, SIZE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One column of a kernel's gradient, from ``ROWS`` rows of the map; with the first column, the bias's.

    Rows of the map pass by a window of the gradient's rows: two rows are loaded for ``SIZE`` products.
    """
    pad: tl.constexpr = SIZE // 2
    zero = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    of_map, given = column + kx - pad, column * g_w + channel
    known, known_of_map = (column < width) & inside, (of_map >= 0) & (of_map < width) & inside
    of_map = of_map * x_w + channel
    sums, of_bias = (zero,) * SIZE, zero
    window = (zero,)  # the gradient's rows around the map's; the last one is loaded in the loop
    for index in tl.static_range(2 * pad):
        window = window + (row_of(gradient, row + index - pad, given, g_h, known, height),)
    for turn in range(ROWS // UNROLLED):
        for index in tl.static_range(UNROLLED):
            at = row + turn * UNROLLED + index
            window = window[1:] + (row_of(gradient, at + pad, given, g_h, known, height),)
            value = row_of(x, at, of_map, x_h, known_of_map, height)
            for ky in tl.static_range(SIZE):
                sums = replaced(sums, ky, sums[ky] + value * window[SIZE - 1 - ky])
            of_bias += window[pad]
    for ky in tl.static_range(SIZE):
        tl.store(out + (ky * SIZE + kx) * count, tl.sum(sums[ky], 0)[None, :], mask=inside)
    tl.store(out + SIZE * SIZE * count, tl.sum(of_bias, 0)[None, :], mask=inside & (kx == 0))


@triton.jit
def partial_sums(
    x, gradient, out, height, width, first, share, x_b, x_h, x_w, g_b, g_h, g_w, out_step, SIZES: tl.constexpr,
    BEFORE: tl.constexpr, COLUMNS_OF_KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Gradients of one column of the kernels of some channels, from a part of one image."""
    first, share, x_b, g_b = whole(first, VECTOR), whole(share, VECTOR), whole(x_b, VECTOR), whole(g_b, VECTOR)
    x_h, x_w, g_h, g_w = whole(x_h, VECTOR), whole(x_w, VECTOR), whole(g_h, VECTOR), whole(g_w, VECTOR)
    across = tl.cdiv(width, COLUMNS)
    kx, piece = tl.program_id(0) % COLUMNS_OF_KERNEL, tl.program_id(0) // COLUMNS_OF_KERNEL
    pieces = tl.num_programs(0) // COLUMNS_OF_KERNEL
    column = piece % across * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    row = piece // across * ROWS
    part, begin, count, within = share_of(tl.program_id(1), first, share, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    channel = begin + within
    out += (image * pieces + piece) * out_step + within
    for which in tl.static_range(len(SIZES)):
        if part == which and kx < SIZES[which]:
            skipped = tl.minimum(which, 1) * first * (SIZES[0] * SIZES[0] + 1) + share * BEFORE[which]
            column_of_kernel(
                x + image * x_b, gradient + image * g_b, out + skipped, row, column, channel, kx, within < count,
                height, width, x_h, x_w, g_h, g_w, count, SIZES[which], ROWS, COLUMNS, CHANNELS,
            )  # fmt: skip


@triton.jit
def add_up(
    partial, weight, bias, first, share, pieces, out_step, w_b, w_c, w_y, w_x, bias_b, bias_c, SIZES: tl.constexpr,
    BEFORE: tl.constexpr, NUMBERS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add the partial sums of one position of the kernels, or of the bias, in order."""
    position = tl.program_id(0)
    part, begin, count, within = share_of(tl.program_id(1), first, share, CHANNELS)
    inside = within < count
    image = tl.program_id(2).to(tl.int64)
    for which in tl.static_range(len(SIZES)):
        if part == which and position <= SIZES[which] * SIZES[which]:
            size: tl.constexpr = SIZES[which]  # not before: a constant of another share is another constant
            skipped = tl.minimum(which, 1) * first * (SIZES[0] * SIZES[0] + 1) + share * BEFORE[which]
            source = partial + image * pieces * out_step + skipped + position * count + within
            sums = tl.zeros((STEP, CHANNELS), tl.float32)
            done = 0
            while done < pieces:  # Triton's interpreter cannot count to a tensor
                piece = done + tl.arange(0, STEP)[:, None]
                sums += tl.load(source + piece.to(tl.int64) * out_step, mask=inside & (piece < pieces), other=0.0)
                done += STEP
            total = tl.sum(sums, 0)[None, :]
            if position == size * size:
                to = bias + image * bias_b + (begin + within) * bias_c
                tl.store(to, total.to(bias.dtype.element_ty), mask=inside)
            else:
                target = weight + image * w_b + within * w_c + position // size * w_y + position % size * w_x
                if len(SIZES) > 1:
                    numbers = tl.minimum(which, 1) * first * (SIZES[0] * SIZES[0]) + share * NUMBERS[which]
                    target = weight + image * w_b + (numbers + within * (size * size) + position) * w_x
                tl.store(target, total.to(weight.dtype.element_ty), mask=inside)


def of_parameters(
    x: Tensor, gradient: Tensor, weight: Tensor, bias: Tensor, channels: Sequence[int], sizes: Sequence[int]
) -> None:
    """Write the gradients of kernels and biases: deterministic, sums in float32.

    Args:
        x: The map (B, C, H, W), with adjacent channels.
        gradient: Of the result, (B, C, H, W), with adjacent channels.
        weight: The kernels' gradient: with one share (1 or B, C, K, K) in any layout, with several (1 or B, numbers).
        bias: The biases' gradient, (1 or B, C).
        channels: Of the shares; all but the first have as many.
        sizes: K of the shares.
    """
    batch, _, height, width = x.shape
    first, share = channels[0], channels[-1]
    block = blocks(width, share)
    deep = channel_blocks(channels, block["CHANNELS"])
    rows = min(cdiv(height, UNROLLED.value) * UNROLLED.value, MAX_ROWS)
    pieces = cdiv(width, block["COLUMNS"]) * cdiv(height, rows)
    numbers = sum(count * (size * size + 1) for count, size in zip(channels, sizes, strict=True))
    partial = x.new_empty(batch * pieces, numbers, dtype=torch.float32)
    largest = max(sizes)
    partial_sums[(largest * pieces, deep, batch)](
        x, gradient, partial, height, width, first, share, *steps(x), *steps(gradient), numbers, SIZES=tuple(sizes),
        BEFORE=before([size * size + 1 for size in sizes]), COLUMNS_OF_KERNEL=largest, ROWS=rows,
        VECTOR=vector(x, gradient, channels=channels), **block,
    )  # fmt: skip
    images = len(weight)
    step = max(8, min(next_power_of_2(batch * pieces // images), MAX_STEP))
    add_up[(largest * largest + 1, deep, images)](
        partial, weight, bias, first, share, batch * pieces // images, numbers, *_steps_of(weight), *bias.stride(),
        SIZES=tuple(sizes), BEFORE=before([size * size + 1 for size in sizes]),
        NUMBERS=before([size * size for size in sizes]), STEP=step, CHANNELS=block["CHANNELS"],
    )  # fmt: skip


def _steps_of(weight: Tensor) -> tuple[int, int, int, int]:
    if weight.ndim == 2:
        return weight.stride(0), 0, 0, weight.stride(1)
    return weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)
