"""Normalisation of each image over all its channels and positions, the paper's layer normalisation.

Forward, one pass sums differences from a value of the image's size, and their squares, for each part of its rows, and
one pass combines the parts and normalises. Backward, one pass sums for each channel, a small kernel combines the sums,
and one pass computes the map's gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import PROGRAMS, row_step, tile, whole

PARTS = 64
"""Maximum of the parts that an image's rows are split into."""

COMBINED = {"PARTS": 32, "CHANNELS": 16}
"""Rows of sums and channels that a program of the small kernel combines at a time."""


@triton.jit
def _statistics(
    x, partials, rows, channels, image_step, step, per_part, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of an image's rows: a mean of some values, and sums of differences from it and of their squares."""
    channels, step, image_step = whole(channels, VECTOR), whole(step, VECTOR), whole(image_step, VECTOR)
    parts, part, image = tl.num_programs(0), tl.program_id(0), tl.program_id(1).to(tl.int64)
    x += image * image_step
    first = part.to(tl.int64) * per_part
    last = tl.minimum(first + per_part, rows)
    channel = tl.arange(0, CHANNELS)[None, :]
    row = first + tl.arange(0, ROWS)[:, None]
    value = tl.load(x + row * step + channel, mask=(row < last) & (channel < channels), other=0.0).to(tl.float32)
    count = (tl.minimum(last - first, ROWS) * tl.minimum(channels, CHANNELS)).to(tl.float32)
    middle = tl.sum(tl.sum(value, 1), 0) / count
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        for left in range(0, channels, CHANNELS):
            row = first + start + tl.arange(0, ROWS)[:, None]
            channel = left + tl.arange(0, CHANNELS)[None, :]
            known = (row < last) & (channel < channels)
            value = tl.load(x + row * step + channel, mask=known, other=0.0).to(tl.float32)
            difference = tl.where(known, value - middle, 0.0)
            sums += difference
            squares += difference * difference
    out = partials + (image * parts + part) * 3
    tl.store(out, middle)
    tl.store(out + 1, tl.sum(tl.sum(sums, 1), 0))
    tl.store(out + 2, tl.sum(tl.sum(squares, 1), 0))


@triton.jit
def _normalise(
    x, weight, bias, partials, statistics, y, rows, channels, image_step, step, parts, per_part, EPS: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step, image_step = whole(channels, VECTOR), whole(step, VECTOR), whole(image_step, VECTOR)
    image = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, PARTS)
    known = part < parts
    given = partials + (image * parts + part) * 3
    middle = tl.load(given, mask=known, other=0.0).to(tl.float64)
    sum_ = tl.load(given + 1, mask=known, other=0.0).to(tl.float64)
    square = tl.load(given + 2, mask=known, other=0.0).to(tl.float64)
    count = tl.where(known, tl.minimum(rows - part.to(tl.int64) * per_part, per_part), 0).to(tl.float64) * channels
    total = tl.sum(count, 0)
    mean = tl.sum(count * middle + sum_, 0) / total
    variance = tl.sum(square + middle * (2.0 * sum_ + count * middle), 0) / total - mean * mean
    factor = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + EPS)
    if tl.program_id(0) == 0:
        tl.store(statistics + image * 2, mean)
        tl.store(statistics + image * 2 + 1, factor)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = channel < channels
    known = (row < rows) & inside
    value = tl.load(x + image * image_step + row * step + channel, mask=known, other=0.0).to(tl.float32)
    high = mean.to(tl.float32)
    value = ((value - high) - (mean - high.to(tl.float64)).to(tl.float32)) * factor.to(tl.float32)
    value = value * tl.load(weight + channel, mask=inside, other=0.0) + tl.load(bias + channel, mask=inside, other=0.0)
    tl.store(y + (image * rows + row) * channels + channel, value.to(y.dtype.element_ty), mask=known)


@triton.jit
def _read(x, statistics, image, image_step, row, step, channel, known):
    """The normalised map, and the reciprocal of its deviation."""
    mean = tl.load(statistics + image * 2)
    factor = tl.load(statistics + image * 2 + 1).to(tl.float32)
    high = mean.to(tl.float32)
    value = tl.load(x + image * image_step + row * step + channel, mask=known, other=0.0).to(tl.float32)
    return ((value - high) - (mean - high.to(tl.float64)).to(tl.float32)) * factor, factor


@triton.jit
def _sum_gradients(
    gradient, x, statistics, partials, rows, channels, gradient_image, gradient_step, image_step, step, parts,
    per_part, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of an image's rows, for each channel: sums of the gradient, and of it times the normalised map."""
    channels, step, image_step = whole(channels, VECTOR), whole(step, VECTOR), whole(image_step, VECTOR)
    gradient_step, gradient_image = whole(gradient_step, VECTOR), whole(gradient_image, VECTOR)
    image = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    part = tl.program_id(0) // blocks
    first = part.to(tl.int64) * per_part
    last = tl.minimum(first + per_part, rows)
    inside = channel < channels
    of_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_weight = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        known = (row < last) & inside
        at = gradient + image * gradient_image + row * gradient_step + channel
        given = tl.load(at, mask=known, other=0.0).to(tl.float32)
        value, _ = _read(x, statistics, image, image_step, row, step, channel, known)
        of_bias += given
        of_weight += given * value
    out = partials + (image * parts + part) * 2 * channels + channel
    tl.store(out, tl.sum(of_bias, 0)[None, :], mask=inside)
    tl.store(out + channels, tl.sum(of_weight, 0)[None, :], mask=inside)


@triton.jit
def _combine_gradients(
    partials, weight, sums, of_weight, of_bias, batch, channels, parts, PARTS: tl.constexpr, CHANNELS: tl.constexpr
):
    """The first programs: an image's means, over channels, of the sums times the weight. Others: channels' sums."""
    program = tl.program_id(0)
    of_image = program < batch
    first = tl.where(of_image, program * parts, 0).to(tl.int64)
    last = tl.where(of_image, first + parts, batch * parts)
    left = tl.where(of_image, 0, (program - batch) * CHANNELS)
    right = tl.where(of_image, channels, left + CHANNELS)
    biases = tl.zeros((PARTS, CHANNELS), tl.float64)
    weights = tl.zeros((PARTS, CHANNELS), tl.float64)
    for start in range(first, last, PARTS):
        for begin in range(left, right, CHANNELS):
            part = start + tl.arange(0, PARTS)[:, None]
            channel = begin + tl.arange(0, CHANNELS)
            known = (part < last) & (channel < channels)[None, :]
            given = partials + part * 2 * channels + channel[None, :]
            scale = tl.load(weight + channel, mask=channel < channels, other=0.0)
            factor = tl.where(of_image, scale, 1.0).to(tl.float64)[None, :]
            biases += tl.load(given, mask=known, other=0.0).to(tl.float64) * factor
            weights += tl.load(given + channels, mask=known, other=0.0).to(tl.float64) * factor
    bias, product = tl.sum(biases, 0), tl.sum(weights, 0)
    if of_image:
        tl.store(sums + program * 2, tl.sum(bias, 0).to(tl.float32))
        tl.store(sums + program * 2 + 1, tl.sum(product, 0).to(tl.float32))
    else:
        channel = left + tl.arange(0, CHANNELS)
        tl.store(of_bias + channel, bias.to(tl.float32), mask=channel < channels)
        tl.store(of_weight + channel, product.to(tl.float32), mask=channel < channels)


@triton.jit
def _input_gradient(
    gradient, x, weight, statistics, sums, back, rows, channels, gradient_image, gradient_step, image_step, step,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step, image_step = whole(channels, VECTOR), whole(step, VECTOR), whole(image_step, VECTOR)
    gradient_step, gradient_image = whole(gradient_step, VECTOR), whole(gradient_image, VECTOR)
    image = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = channel < channels
    known = (row < rows) & inside
    at = gradient + image * gradient_image + row * gradient_step + channel
    given = tl.load(at, mask=known, other=0.0).to(tl.float32) * tl.load(weight + channel, mask=inside, other=0.0)
    value, factor = _read(x, statistics, image, image_step, row, step, channel, known)
    count = rows.to(tl.float32) * channels
    mean, product = tl.load(sums + image * 2) / count, tl.load(sums + image * 2 + 1) / count
    result = factor * (given - mean - value * product)
    tl.store(back + (image * rows + row) * channels + channel, result.to(back.dtype.element_ty), mask=known)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the operator ``group_norm``."""
    x, *steps = _in_images(x)
    batch, channels, height, width = x.shape
    rows, sizes = height * width, tile(x, *steps)
    parts, per_part = _split(rows, batch, sizes["ROWS"])
    partials = x.new_empty(batch, parts, 3, dtype=torch.float32)
    _statistics[(parts, batch)](x, partials, rows, channels, *steps, per_part, **sizes)
    statistics = x.new_empty(batch, 2, dtype=torch.float64)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (triton.cdiv(rows, sizes["ROWS"]) * triton.cdiv(channels, sizes["CHANNELS"]), batch)
    _normalise[grid](
        x, weight, bias, partials, statistics, y, rows, channels, *steps, parts, per_part, EPS=eps, PARTS=PARTS, **sizes
    )
    return y, statistics


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator ``group_norm_backward``."""
    x, *own = _in_images(x)
    gradient, *others = _in_images(gradient)
    steps = (*others, *own)
    batch, channels, height, width = x.shape
    rows, sizes = height * width, tile(x, *steps)
    parts, per_part = _split(rows, batch, sizes["ROWS"])
    blocks = triton.cdiv(channels, sizes["CHANNELS"])
    partials = x.new_empty(batch, parts, 2, channels, dtype=torch.float32)
    _sum_gradients[(parts * blocks, batch)](
        gradient, x, statistics, partials, rows, channels, *steps, parts, per_part, **sizes
    )
    sums = x.new_empty(batch, 2, dtype=torch.float32)
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
    _combine_gradients[(batch + triton.cdiv(channels, COMBINED["CHANNELS"]),)](
        partials, weight, sums, of_weight, of_bias, batch, channels, parts, **COMBINED
    )
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    back = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (triton.cdiv(rows, sizes["ROWS"]) * blocks, batch)
    _input_gradient[grid](gradient, x, weight, statistics, sums, back, rows, channels, *steps, **sizes)
    return back, of_weight, of_bias


def _in_images(x: Tensor) -> tuple[Tensor, int, int]:
    """A map with evenly spaced positions in each image, and the distances of images and of positions in elements."""
    step = row_step(x[:1])
    if step is None:
        x = x.clone(memory_format=torch.channels_last)
        step = x.shape[1]
    return x, x.stride(0), step


def _split(rows: int, batch: int, tile_rows: int) -> tuple[int, int]:
    """Parts of an image, and rows of each."""
    tiles = triton.cdiv(rows, tile_rows)
    per_part = triton.cdiv(tiles, max(1, min(PARTS, PROGRAMS // batch))) * tile_rows
    return triton.cdiv(rows, per_part), per_part
