"""Group normalisation of each image over all its channels and positions, with a weight and bias for each channel.

Forward, one pass sums differences from a value of the map's size, and their squares, for each part of an image; the
pass that normalises combines an image's parts in every program. Backward, one pass sums the gradient and its product
with the normalised map, for each channel and for each part of an image; one computes the map's gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import cdiv, in_rows, next_power_of_2, split, tile, whole


@triton.jit
def _region(channels, parts, CHANNELS: tl.constexpr):
    """Image and part of an image of this program, and its first channel."""
    blocks = tl.cdiv(channels, CHANNELS)
    index = tl.program_id(0) // blocks
    return (index // parts).to(tl.int64), index % parts, tl.program_id(0) % blocks * CHANNELS


@triton.jit
def _statistics(
    x, partials, area, channels, step, per_part, parts, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of an image: the mean of the first rows, and sums of differences from it and of their squares."""
    channels, step = whole(channels, VECTOR), whole(step, VECTOR)
    image, part, start_channel = _region(channels, parts, CHANNELS)
    channel = start_channel + tl.arange(0, CHANNELS)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    rows = tl.minimum(area - part * per_part, per_part)
    inside = channel < channels
    x += (image * area + part * per_part) * step
    value = tl.load(x + (row * step + channel), mask=(row < rows) & inside, other=0.0).to(tl.float32)
    count = tl.minimum(rows, ROWS).to(tl.float32) * tl.minimum(channels - start_channel, CHANNELS)
    middle = tl.sum(tl.sum(value, 1), 0) / count
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        known = (row < rows - start) & inside
        value = tl.load(x + (row * step + channel), mask=known, other=0.0).to(tl.float32)
        difference = tl.where(known, value - middle, 0.0)
        sums += difference
        squares += difference * difference
        x += ROWS * step
    out = partials + tl.program_id(0).to(tl.int64) * 3
    tl.store(out, middle)
    tl.store(out + 1, tl.sum(tl.sum(sums, 1), 0))
    tl.store(out + 2, tl.sum(tl.sum(squares, 1), 0))


@triton.jit
def _combined(
    partials, image, area, channels, per_part, parts, EPS: tl.constexpr, PROGRAMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation of an image in float64, from the sums of its programs."""
    blocks = tl.cdiv(channels, CHANNELS)
    index = tl.arange(0, PROGRAMS)
    known = index < parts * blocks
    given = partials + (image * parts * blocks + index) * 3
    middle = tl.load(given, mask=known, other=0.0).to(tl.float64)
    total = tl.load(given + 1, mask=known, other=0.0).to(tl.float64)
    square = tl.load(given + 2, mask=known, other=0.0).to(tl.float64)
    rows = tl.minimum(area - index // blocks * per_part, per_part).to(tl.float64)
    count = tl.where(known, rows * tl.minimum(channels - index % blocks * CHANNELS, CHANNELS).to(tl.float64), 0.0)
    values = tl.sum(count, 0)
    mean = tl.sum(count * middle + total, 0) / values
    away = middle - mean
    variance = tl.sum(square + away * (2.0 * total + count * away), 0) / values
    return mean, tl.rsqrt(tl.maximum(variance, 0.0) + EPS)


@triton.jit
def _normalised(value, mean, factor):
    """Values minus the mean, which float32 may not hold in one number, by the deviation."""
    high = mean.to(tl.float32)
    return ((value - high) - (mean - high.to(tl.float64)).to(tl.float32)) * factor.to(tl.float32)


@triton.jit
def _normalise(
    x, weight, bias, partials, statistics, y, area, channels, step, per_part, parts, tiles, EPS: tl.constexpr,
    PROGRAMS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step = whole(channels, VECTOR), whole(step, VECTOR)
    image, index, start_channel = _region(channels, tiles, CHANNELS)
    channel = start_channel + tl.arange(0, CHANNELS)[None, :]
    mean, factor = _combined(partials, image, area, channels, per_part, parts, EPS, PROGRAMS, CHANNELS)
    first = (index == 0) & (start_channel == 0)
    tl.store(statistics + image * 2, mean, mask=first)
    tl.store(statistics + image * 2 + 1, factor, mask=first)
    row = tl.arange(0, ROWS)[:, None]
    start = image * area + index * ROWS
    inside = channel < channels
    known = (row < area - index * ROWS) & inside
    value = tl.load(x + start * step + (row * step + channel), mask=known, other=0.0).to(tl.float32)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    value = _normalised(value, mean, factor) * scale + shift
    tl.store(y + start * channels + (row * channels + channel), value.to(y.dtype.element_ty), mask=known)


@triton.jit
def _sum_gradients(
    gradient, x, weight, statistics, sums, of_weight, of_bias, area, channels, gradient_step, step, per_part, parts,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of an image: for each channel, the sums of the gradient and of its product with the normalised map;
    and their products with the weight, summed over the channels.
    """
    channels, step, gradient_step = whole(channels, VECTOR), whole(step, VECTOR), whole(gradient_step, VECTOR)
    image, part, start_channel = _region(channels, parts, CHANNELS)
    channel = start_channel + tl.arange(0, CHANNELS)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    rows = tl.minimum(area - part * per_part, per_part)
    inside = channel < channels
    gradient += (image * area + part * per_part) * gradient_step
    x += (image * area + part * per_part) * step
    mean, factor = tl.load(statistics + image * 2), tl.load(statistics + image * 2 + 1)
    biases = tl.zeros((ROWS, CHANNELS), tl.float32)
    weights = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        known = (row < rows - start) & inside
        given = tl.load(gradient + (row * gradient_step + channel), mask=known, other=0.0).to(tl.float32)
        value = tl.load(x + (row * step + channel), mask=known, other=0.0).to(tl.float32)
        biases += given
        weights += given * _normalised(value, mean, factor)
        gradient += ROWS * gradient_step
        x += ROWS * step
    bias, product = tl.sum(biases, 0)[None, :], tl.sum(weights, 0)[None, :]
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    out = (image * parts + part) * channels + channel
    tl.store(of_bias + out, bias, mask=inside)
    tl.store(of_weight + out, product, mask=inside)
    total = sums + tl.program_id(0).to(tl.int64) * 2
    tl.store(total, tl.sum(tl.sum(bias * scale, 1), 0))
    tl.store(total + 1, tl.sum(tl.sum(product * scale, 1), 0))


@triton.jit
def _input_gradient(
    gradient, x, weight, statistics, sums, back, area, channels, gradient_step, step, parts, tiles,
    PROGRAMS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step, gradient_step = whole(channels, VECTOR), whole(step, VECTOR), whole(gradient_step, VECTOR)
    image, index, start_channel = _region(channels, tiles, CHANNELS)
    channel = start_channel + tl.arange(0, CHANNELS)[None, :]
    programs = parts * tl.cdiv(channels, CHANNELS)
    one = tl.arange(0, PROGRAMS)
    total = sums + (image * programs + one) * 2
    values = tl.sum(tl.where(one == 0, area, 0).to(tl.float64), 0) * channels
    of_mean = tl.sum(tl.load(total, mask=one < programs, other=0.0).to(tl.float64), 0) / values
    of_product = tl.sum(tl.load(total + 1, mask=one < programs, other=0.0).to(tl.float64), 0) / values
    mean, factor = tl.load(statistics + image * 2), tl.load(statistics + image * 2 + 1)
    row = tl.arange(0, ROWS)[:, None]
    start = image * area + index * ROWS
    inside = channel < channels
    known = (row < area - index * ROWS) & inside
    gradient += start * gradient_step
    given = tl.load(gradient + (row * gradient_step + channel), mask=known, other=0.0).to(tl.float32)
    value = tl.load(x + start * step + (row * step + channel), mask=known, other=0.0).to(tl.float32)
    value = _normalised(value, mean, factor)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    result = given * scale - of_mean.to(tl.float32) - value * of_product.to(tl.float32)
    result *= factor.to(tl.float32)
    tl.store(back + start * channels + (row * channels + channel), result.to(back.dtype.element_ty), mask=known)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the operator ``group_norm``."""
    batch, channels, height, width = x.shape
    x, step = in_rows(x)
    area, sizes = height * width, tile(x, step)
    blocks, parts, per_part = _split(batch, channels, area, sizes)
    partials = x.new_empty(batch, parts * blocks, 3, dtype=torch.float32)
    _statistics[(batch * parts * blocks,)](x, partials, area, channels, step, per_part, parts, **sizes)
    statistics = x.new_empty(batch, 2, dtype=torch.float64)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    tiles = cdiv(area, sizes["ROWS"])
    _normalise[(batch * tiles * blocks,)](
        x, weight, bias, partials, statistics, y, area, channels, step, per_part, parts, tiles, EPS=eps,
        PROGRAMS=next_power_of_2(parts * blocks), **sizes,
    )  # fmt: skip
    return y, statistics


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator ``group_norm_backward``."""
    batch, channels, height, width = x.shape
    x, step = in_rows(x)
    gradient, gradient_step = in_rows(gradient)
    area, sizes = height * width, tile(x, step, gradient_step)
    blocks, parts, per_part = _split(batch, channels, area, sizes)
    sums = x.new_empty(batch, parts * blocks, 2, dtype=torch.float32)
    partials = [x.new_empty(batch * parts, channels, dtype=torch.float32) for _ in range(2)]
    _sum_gradients[(batch * parts * blocks,)](
        gradient, x, weight, statistics, sums, *partials, area, channels, gradient_step, step, per_part, parts, **sizes
    )
    of_weight, of_bias = (part.sum(0).to(weight.dtype) for part in partials)
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    back = torch.empty_like(x, memory_format=torch.channels_last)
    tiles = cdiv(area, sizes["ROWS"])
    _input_gradient[(batch * tiles * blocks,)](
        gradient, x, weight, statistics, sums, back, area, channels, gradient_step, step, parts, tiles,
        PROGRAMS=next_power_of_2(parts * blocks), **sizes,
    )  # fmt: skip
    return back, of_weight, of_bias


def _split(batch: int, channels: int, area: int, sizes: dict[str, int]) -> tuple[int, int, int]:
    """Blocks of channels, parts of an image and rows of a part; few enough for every program to combine an image's."""
    blocks = cdiv(channels, sizes["CHANNELS"])
    return blocks, *split(area, blocks * max(batch, 2), sizes["ROWS"])
