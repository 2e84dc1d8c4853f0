"""Means of a map's bins and of the whole map, the positions of IDConv's attention."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.depthwise_tiles import laid_out, steps, vector
from transxnet.kernels.cuda.rows import cdiv, next_power_of_2, whole

PIXELS = 32
"""Pixels of a small map that a program reads at once."""

MANY_PIXELS = 64
"""The same of other maps."""

MAX_CHANNELS = 32
"""Channels of a program."""

LARGEST_MAP = 4096
"""Pixels up to which one program of the kernel computes the mean of the whole map."""

SMALL_MAP = 256
"""Pixels up to which one program computes the means of all bins of some channels."""


@triton.jit
def _bins(
    x, out, channels, height, width, x_b, x_h, x_w, out_b, out_p, SIZE: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The mean of a bin, as of adaptive average pooling; the last is the whole map."""
    channels, x_b, x_h, x_w = whole(channels, VECTOR), whole(x_b, VECTOR), whole(x_h, VECTOR), whole(x_w, VECTOR)
    position = tl.program_id(0)
    is_bin = position < SIZE * SIZE
    row, column = position // SIZE, position % SIZE
    top = tl.where(is_bin, row * height // SIZE, 0)
    bottom = tl.where(is_bin, ((row + 1) * height + SIZE - 1) // SIZE, height)
    left = tl.where(is_bin, column * width // SIZE, 0)
    right = tl.where(is_bin, ((column + 1) * width + SIZE - 1) // SIZE, width)
    across = right - left
    count = (bottom - top) * across
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    image = tl.program_id(2).to(tl.int64)
    inside = channel < channels
    sums = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(0, count, PIXELS):
        index = begin + tl.arange(0, PIXELS)[:, None]
        pixel = (top + index // across) * x_h + (left + index % across) * x_w
        sums += tl.load(x + image * x_b + pixel + channel, mask=(index < count) & inside, other=0.0).to(tl.float32)
    mean = tl.sum(sums, 0, keep_dims=True) / count
    tl.store(out + image * out_b + position * out_p + channel, mean.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _small_bins(
    x, out, channels, height, width, tallest, widest, x_b, x_h, x_w, out_b, out_p, SIZE: tl.constexpr,
    BINS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """All means of some channels of a small map, whose bins have up to ``tallest`` x ``widest`` pixels."""
    channels, x_b, x_h, x_w = whole(channels, VECTOR), whole(x_b, VECTOR), whole(x_h, VECTOR), whole(x_w, VECTOR)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    image = tl.program_id(1).to(tl.int64)
    inside = channel < channels
    x, out = x + image * x_b, out + image * out_b
    position = tl.arange(0, BINS)[:, None]
    row, column = position // SIZE, position % SIZE
    top, bottom = row * height // SIZE, ((row + 1) * height + SIZE - 1) // SIZE
    left, right = column * width // SIZE, ((column + 1) * width + SIZE - 1) // SIZE
    known = inside & (position < SIZE * SIZE)
    sums = tl.zeros((BINS, CHANNELS), tl.float32)
    for step in range(tallest * widest):
        y, at = top + step // widest, left + step % widest
        mask = known & (y < bottom) & (at < right)
        sums += tl.load(x + y * x_h + at * x_w + channel, mask=mask, other=0.0).to(tl.float32)
    mean = sums / ((bottom - top) * (right - left))
    tl.store(out + position * out_p + channel, mean.to(out.dtype.element_ty), mask=known)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(0, height * width, PIXELS):
        index = begin + tl.arange(0, PIXELS)[:, None]
        pixel = index // width * x_h + index % width * x_w
        total += tl.load(x + pixel + channel, mask=(index < height * width) & inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0, keep_dims=True) / (height * width)
    tl.store(out + SIZE * SIZE * out_p + channel, mean.to(out.dtype.element_ty), mask=inside)


def forward(x: Tensor, size: int) -> Tensor:
    """Shapes: (B, C, H, W) to (B, size * size + 1, C)."""
    x = laid_out(x)
    batch, channels, height, width = x.shape
    out = x.new_empty(batch, size * size + 1, channels)
    in_one = height * width <= LARGEST_MAP
    deep = min(next_power_of_2(channels), MAX_CHANNELS)
    if height * width <= SMALL_MAP:
        tallest, widest = (_largest_bin(length, size) for length in (height, width))
        _small_bins[cdiv(channels, deep), batch](
            x, out, channels, height, width, tallest, widest, *steps(x), out.stride(0), out.stride(1), SIZE=size,
            BINS=next_power_of_2(size * size), PIXELS=PIXELS, CHANNELS=deep,
            VECTOR=vector(x, channels=[channels]),
        )  # fmt: skip
        return out
    _bins[size * size + in_one, cdiv(channels, deep), batch](
        x, out, channels, height, width, *steps(x), out.stride(0), out.stride(1), SIZE=size,
        PIXELS=MANY_PIXELS, CHANNELS=deep, VECTOR=vector(x, channels=[channels]),
    )  # fmt: skip
    if not in_one:
        out[:, -1] = torch.mean(x, (2, 3))
    return out


@functools.cache
def _largest_bin(length: int, bins: int) -> int:
    """The longest side of the bins of adaptive average pooling."""
    return max(-(-(index + 1) * length // bins) - index * length // bins for index in range(bins))
