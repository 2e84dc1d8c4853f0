"""Batch normalisation by a batch's own statistics, with GELU before or after it.

Forward, one pass sums differences from a value of the map's size, and their squares, for each part of the rows; a small
kernel combines the parts in float64; one pass normalises. Backward, one pass sums the gradient and its product with the
normalised map, and one computes the map's gradient; GELU is computed again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import cdiv, gelu_slope, in_rows, split, tile, whole
from transxnet.kernels.cuda.rows import gelu as gelu_of

COMBINED = {"PARTS": 32, "CHANNELS": 16}
"""Parts and channels that a program of the small kernels combines at a time."""


@triton.jit
def _statistics(
    x, partials, rows, channels, step, per_part, ORDER: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of the rows: the mean of the first ones, and sums of differences from it and of their squares."""
    channels, step = whole(channels, VECTOR), whole(step, VECTOR)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    part = tl.program_id(0) // blocks
    first = part.to(tl.int64) * per_part
    last = tl.minimum(first + per_part, rows)
    inside = channel < channels
    row = first + tl.arange(0, ROWS)[:, None]
    value = tl.load(x + row * step + channel, mask=(row < last) & inside, other=0.0).to(tl.float32)
    if ORDER == "before":
        value = gelu_of(value)
    middle = tl.sum(value, 0)[None, :] / tl.minimum(last - first, ROWS).to(tl.float32)
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        known = (row < last) & inside
        value = tl.load(x + row * step + channel, mask=known, other=0.0).to(tl.float32)
        if ORDER == "before":
            value = gelu_of(value)
        difference = tl.where(known, value - middle, 0.0)
        sums += difference
        squares += difference * difference
    out = partials + part * 3 * channels + channel
    tl.store(out, middle, mask=inside)
    tl.store(out + channels, tl.sum(sums, 0)[None, :], mask=inside)
    tl.store(out + 2 * channels, tl.sum(squares, 0)[None, :], mask=inside)


@triton.jit
def _finished(
    total, squares, count, statistics, running_mean, running_var, new_mean, new_var, channel, channels,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation, and the new running statistics, of sums of values and squares in float64."""
    inside = channel < channels
    mean = total / count
    variance = tl.maximum(squares / count - mean * mean, 0.0)
    tl.store(statistics + channel, mean, mask=inside)
    tl.store(statistics + channels + channel, 1.0 / tl.sqrt(variance + EPS), mask=inside)
    unbiased = variance * (count / tl.maximum(count - 1.0, 1.0))
    old_mean = tl.load(running_mean + channel, mask=inside, other=0.0).to(tl.float64)
    old_var = tl.load(running_var + channel, mask=inside, other=0.0).to(tl.float64)
    tl.store(new_mean + channel, (old_mean + (mean - old_mean) * MOMENTUM).to(tl.float32), mask=inside)
    tl.store(new_var + channel, (old_var + (unbiased - old_var) * MOMENTUM).to(tl.float32), mask=inside)


@triton.jit
def _combine(
    partials, sums, statistics, running_mean, running_var, new_mean, new_var, rows, channels, parts, per_part,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, ALONE: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The statistics from those of all parts; or, to be added to those of other processes, sums and the row count."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    totals = tl.zeros((PARTS, CHANNELS), tl.float64)
    squares = tl.zeros((PARTS, CHANNELS), tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        known = (part < parts) & (channel < channels)[None, :]
        given = partials + part * 3 * channels + channel[None, :]
        middle = tl.load(given, mask=known, other=0.0).to(tl.float64)
        sum_ = tl.load(given + channels, mask=known, other=0.0).to(tl.float64)
        square = tl.load(given + 2 * channels, mask=known, other=0.0).to(tl.float64)
        count = tl.minimum(rows - part.to(tl.int64) * per_part, per_part).to(tl.float64)
        totals += count * middle + sum_
        squares += square + middle * (2.0 * sum_ + count * middle)
    total, square = tl.sum(totals, 0), tl.sum(squares, 0)
    count = tl.zeros((CHANNELS,), tl.float64) + rows
    if ALONE:
        _finished(
            total, square, count, statistics, running_mean, running_var, new_mean, new_var, channel, channels,
            MOMENTUM, EPS,
        )  # fmt: skip
    else:
        tl.store(sums + channel, total, mask=channel < channels)
        tl.store(sums + channels + channel, square, mask=channel < channels)
        tl.store(sums + 2 * channels + channel, count, mask=channel < 1)


@triton.jit
def _finish(
    sums, statistics, running_mean, running_var, new_mean, new_var, channels, MOMENTUM: tl.constexpr,
    EPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The statistics from the sums of all processes; the third row of them is the number of values of a channel."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    total = tl.load(sums + channel, mask=inside, other=0.0)
    square = tl.load(sums + channels + channel, mask=inside, other=0.0)
    count = tl.zeros((CHANNELS,), tl.float64) + tl.load(sums + 2 * channels)
    _finished(
        total, square, count, statistics, running_mean, running_var, new_mean, new_var, channel, channels, MOMENTUM,
        EPS,
    )  # fmt: skip
    tl.store(statistics + 2 * channels + channel, count, mask=inside)


@triton.jit
def _normalised(value, statistics, channel, channels):
    """Values minus the mean, which float32 may not hold in one number, by the deviation; and its reciprocal."""
    inside = channel < channels
    mean = tl.load(statistics + channel, mask=inside, other=0.0)
    high = mean.to(tl.float32)
    low = (mean - high.to(tl.float64)).to(tl.float32)
    factor = tl.load(statistics + channels + channel, mask=inside, other=0.0).to(tl.float32)
    return ((value - high) - low) * factor, factor


@triton.jit
def _normalise(
    x, weight, bias, statistics, y, rows, channels, step, ORDER: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step = whole(channels, VECTOR), whole(step, VECTOR)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = channel < channels
    known = (row < rows) & inside
    value = tl.load(x + row * step + channel, mask=known, other=0.0).to(tl.float32)
    if ORDER == "before":
        value = gelu_of(value)
    value, _ = _normalised(value, statistics, channel, channels)
    value = value * tl.load(weight + channel, mask=inside, other=0.0) + tl.load(bias + channel, mask=inside, other=0.0)
    if ORDER == "after":
        value = gelu_of(value)
    tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=known)


@triton.jit
def _read(
    gradient, x, weight, bias, statistics, row, channel, known, channels, gradient_step, step, ORDER: tl.constexpr
):
    """The gradient of the normalisation's result, the normalised map, its factor and the map."""
    given = tl.load(gradient + row * gradient_step + channel, mask=known, other=0.0).to(tl.float32)
    raw = tl.load(x + row * step + channel, mask=known, other=0.0).to(tl.float32)
    value = raw
    if ORDER == "before":
        value = gelu_of(raw)
    value, factor = _normalised(value, statistics, channel, channels)
    if ORDER == "after":
        inside = channel < channels
        scale = tl.load(weight + channel, mask=inside, other=0.0)
        given *= gelu_slope(value * scale + tl.load(bias + channel, mask=inside, other=0.0))
    return given, value, factor, raw


@triton.jit
def _sum_gradients(
    gradient, x, weight, bias, statistics, partials, rows, channels, gradient_step, step, per_part,
    ORDER: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Of a part of the rows: the sum of the gradient, and of its product with the normalised map."""
    channels, step, gradient_step = whole(channels, VECTOR), whole(step, VECTOR), whole(gradient_step, VECTOR)
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
        given, value, _, _ = _read(
            gradient, x, weight, bias, statistics, row, channel, (row < last) & inside, channels, gradient_step, step,
            ORDER,
        )  # fmt: skip
        of_bias += given
        of_weight += given * value
    out = partials + part * 2 * channels + channel
    tl.store(out, tl.sum(of_bias, 0)[None, :], mask=inside)
    tl.store(out + channels, tl.sum(of_weight, 0)[None, :], mask=inside)


@triton.jit
def _combine_gradients(
    partials, sums, of_weight, of_bias, channels, parts, PARTS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Sums over all parts, in float64 for the map's gradient and in float32 as gradients of the parameters."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    first = tl.zeros((PARTS, CHANNELS), tl.float64)
    second = tl.zeros((PARTS, CHANNELS), tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        known = (part < parts) & inside[None, :]
        given = partials + part * 2 * channels + channel[None, :]
        first += tl.load(given, mask=known, other=0.0).to(tl.float64)
        second += tl.load(given + channels, mask=known, other=0.0).to(tl.float64)
    bias, weight = tl.sum(first, 0), tl.sum(second, 0)
    tl.store(sums + channel, bias, mask=inside)
    tl.store(sums + channels + channel, weight, mask=inside)
    tl.store(of_bias + channel, bias.to(tl.float32), mask=inside)
    tl.store(of_weight + channel, weight.to(tl.float32), mask=inside)


@triton.jit
def _input_gradient(
    gradient, x, weight, bias, statistics, sums, back, rows, channels, gradient_step, step, ORDER: tl.constexpr,
    ALONE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step, gradient_step = whole(channels, VECTOR), whole(step, VECTOR), whole(gradient_step, VECTOR)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = channel < channels
    known = (row < rows) & inside
    given, value, factor, raw = _read(
        gradient, x, weight, bias, statistics, row, channel, known, channels, gradient_step, step, ORDER
    )
    if ALONE:
        count = tl.zeros((1, CHANNELS), tl.float64) + rows
    else:
        count = tl.load(statistics + 2 * channels + channel, mask=inside, other=1.0)
    of_bias = (tl.load(sums + channel, mask=inside, other=0.0) / count).to(tl.float32)
    of_weight = (tl.load(sums + channels + channel, mask=inside, other=0.0) / count).to(tl.float32)
    result = tl.load(weight + channel, mask=inside, other=0.0) * factor * (given - of_bias - value * of_weight)
    if ORDER == "before":
        result *= gelu_slope(raw)
    tl.store(back + row * channels + channel, result.to(back.dtype.element_ty), mask=known)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the operator ``batch_norm``."""
    channels = x.shape[1]
    x, step = in_rows(x)
    statistics = x.new_empty(2, channels, dtype=torch.float64)
    new_mean, new_var = torch.empty_like(running_mean), torch.empty_like(running_var)
    running = (running_mean, running_var, new_mean, new_var)
    combine(x, step, gelu, None, statistics, running, {"MOMENTUM": momentum, "EPS": eps})
    return normalised(x, step, weight, bias, statistics, gelu), statistics, new_mean, new_var


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator ``batch_norm_backward``."""
    x, step = in_rows(x)
    gradient, gradient_step = in_rows(gradient)
    given = (gradient, x, weight, bias, statistics)
    sums, of_weight, of_bias = summed(*given, (gradient_step, step), gelu)
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    return input_gradient(*given, sums, (gradient_step, step), gelu, alone=True), of_weight, of_bias


def combine(
    x: Tensor, step: int, gelu: str, sums: Tensor | None, statistics: Tensor | None,
    running: tuple[Tensor, Tensor, Tensor, Tensor], settings: dict[str, float],
) -> None:  # fmt: skip
    """Write the statistics of a map, or its sums (2 C + 1) of values, squares and rows for other processes.

    Args:
        x: The map (B, C, H, W).
        step: Distance of its positions.
        gelu: GELU before the normalisation counts.
        sums: The sums, float64.
        statistics: Means and reciprocal deviations (2, C), float64, where there are no sums.
        running: The running means and variances (C), and those to write.
        settings: Momentum and epsilon.
    """
    channels = x.shape[1]
    rows, sizes = x.numel() // channels, tile(x, step)
    blocks = cdiv(channels, sizes["CHANNELS"])
    parts, per_part = split(rows, blocks, sizes["ROWS"])
    partials = x.new_empty(parts, 3, channels, dtype=torch.float32)
    _statistics[(parts * blocks,)](x, partials, rows, channels, step, per_part, ORDER=gelu, **sizes)
    _combine[(cdiv(channels, COMBINED["CHANNELS"]),)](
        partials, partials if sums is None else sums, partials if statistics is None else statistics, *running, rows,
        channels, parts, per_part, ALONE=sums is None, **settings, **COMBINED,
    )  # fmt: skip


def normalised(x: Tensor, step: int, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str) -> Tensor:
    """A map (B, C, H, W) with positions ``step`` elements apart, normalised by its statistics."""
    channels = x.shape[1]
    rows, sizes = x.numel() // channels, tile(x, step)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (cdiv(rows, sizes["ROWS"]) * cdiv(channels, sizes["CHANNELS"]),)
    _normalise[grid](x, weight, bias, statistics, y, rows, channels, step, ORDER=gelu, **sizes)
    return y


def summed(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, steps: tuple[int, int], gelu: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (2, C) in float64 of the gradient and of its product with the normalised map; the parameters' gradients."""
    channels = x.shape[1]
    rows, sizes = x.numel() // channels, tile(x, *steps)
    blocks = cdiv(channels, sizes["CHANNELS"])
    parts, per_part = split(rows, blocks, sizes["ROWS"])
    partials = x.new_empty(parts, 2, channels, dtype=torch.float32)
    _sum_gradients[(parts * blocks,)](
        gradient, x, weight, bias, statistics, partials, rows, channels, *steps, per_part, ORDER=gelu, **sizes
    )
    sums = x.new_empty(2, channels, dtype=torch.float64)
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
    _combine_gradients[(cdiv(channels, COMBINED["CHANNELS"]),)](
        partials, sums, of_weight, of_bias, channels, parts, **COMBINED
    )
    return sums, of_weight, of_bias


def input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, sums: Tensor,
    steps: tuple[int, int], gelu: str, *, alone: bool,
) -> Tensor:  # fmt: skip
    """The map's gradient, from the sums of :func:`summed`, of one process if it is ``alone``, or of all."""
    channels = x.shape[1]
    rows, sizes = x.numel() // channels, tile(x, *steps)
    sizes["ROWS"] //= 2 if sizes["VECTOR"] == 8 else 4  # fewer registers: more programs share a multiprocessor
    back = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (cdiv(rows, sizes["ROWS"]) * cdiv(channels, sizes["CHANNELS"]),)
    _input_gradient[grid](
        gradient, x, weight, bias, statistics, sums, back, rows, channels, *steps, ORDER=gelu, ALONE=alone, **sizes
    )
    return back
