"""Depthwise convolutions with stride 1 that keep the map's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.depthwise_gradients import of_parameters as gradients_of_parameters
from transxnet.kernels.cuda.depthwise_tiles import (
    ROWS,
    before,
    blocks,
    channel_blocks,
    laid_out,
    share_of,
    steps,
    store,
    summed,
    vector,
)
from transxnet.kernels.cuda.rows import cdiv, whole

LARGE_MAP = 2**20
"""Values of a map from which a copy of its kernels, with the channels adjacent, is paid back."""


@triton.jit
def convolve(
    x, weight, bias, edges, out, height, width, first, share, x_b, x_h, x_w, out_b, out_h, out_w, w_b, w_c, w_y, w_x,
    bias_b, bias_c, SIZES: tl.constexpr, BEFORE: tl.constexpr, EDGES_BEFORE: tl.constexpr, PACKED: tl.constexpr,
    FLIPPED: tl.constexpr, BIAS: tl.constexpr, IDENTITY: tl.constexpr, SHIFT: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
):  # fmt: skip
    """A tile of one share of the channels; see :func:`launch`.

    With several shares the kernels' positions have the step ``w_x`` between them, and ``BEFORE`` has the positions of
    the kernels before each.
    """
    first, share, x_b = whole(first, VECTOR), whole(share, VECTOR), whole(x_b, VECTOR)
    x_h, x_w = whole(x_h, VECTOR), whole(x_w, VECTOR)
    out_b, out_h, out_w = whole(out_b, VECTOR), whole(out_h, VECTOR), whole(out_w, VECTOR)
    w_b, w_y, w_x = whole(w_b, WEIGHT_VECTOR), whole(w_y, WEIGHT_VECTOR), whole(w_x, WEIGHT_VECTOR)
    across = tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // across * ROWS
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    part, begin, count, within = share_of(tl.program_id(1), first, share, CHANNELS)
    inside, channel = within < count, begin + within
    image = tl.program_id(2).to(tl.int64)
    start = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if BIAS:
        start += tl.load(bias + image * bias_b + channel * bias_c, mask=inside, other=0.0).to(tl.float32)
    sums, taken, edges_before = (start,) * ROWS, SIZES[0], EDGES_BEFORE[0]
    x, weight, out = x + image * x_b, weight + image * w_b, out + image * out_b
    for which in tl.static_range(len(SIZES)):
        if part == which:
            size: tl.constexpr = SIZES[which]
            kernel, step_y, step_x = weight + within * w_c, w_y, w_x
            if len(SIZES) > 1:
                step_y = size * w_x
                if PACKED:
                    kernel = weight + BEFORE[which] * w_x + within
                elif which == 0:
                    kernel = weight + within * (size * step_y)
                else:
                    skipped = first * (SIZES[0] * SIZES[0]) + share * BEFORE[which]
                    kernel = weight + skipped * w_x + within * (size * step_y)
            if FLIPPED:
                kernel += (size - 1) * (step_y + step_x)
                step_y, step_x = -step_y, -step_x
            sums = summed(
                x, kernel, sums, row, column, channel, inside, height, width, x_h, x_w, step_y, step_x, size, ROWS
            )
            taken, edges_before = size, EDGES_BEFORE[which]
    store(
        sums, edges + edges_before * w_x + within, taken, x, out, row, column, channel, inside, height, width, x_h, x_w,
        out_h, out_w, w_x, IDENTITY, SHIFT, GELU, ROWS,
    )  # fmt: skip


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, channels: Sequence[int], sizes: Sequence[int], identity: bool
) -> Tensor:
    """Convolve each share of the channels; arguments as for the operator.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    _check(x, weight)
    x = laid_out(x)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    for some, kernels, taken, given in groups(weight, channels, sizes):
        launch(
            x[:, some], kernels, None if bias is None else bias[:, some], out[:, some], taken, given, identity=identity
        )
    return out


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, channels: Sequence[int], sizes: Sequence[int], identity: bool,
    of_input: bool, of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the input, (B, C, H, W), of the weight and of the bias; empty unless requested."""
    gradient, x = laid_out(gradient), laid_out(x)
    of_x, of_weight, of_bias = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if of_input:
        of_x = torch.empty_like(x, memory_format=torch.channels_last)
        for some, kernels, taken, given in groups(weight, channels, sizes):
            launch(gradient[:, some], kernels, None, of_x[:, some], taken, given, flipped=True, identity=identity)
    if of_parameters:
        of_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        of_bias = weight.new_empty(len(weight), x.shape[1])
        for some, kernels, taken, given in groups(of_weight, channels, sizes):
            gradients_of_parameters(x[:, some], gradient[:, some], kernels, of_bias[:, some], taken, given)
    return of_x, of_weight, of_bias


def _check(x: Tensor, weight: Tensor) -> None:
    if len(weight) not in (1, len(x)):
        raise ValueError(f"there are kernels for {len(weight)} images, but {len(x)} images")


def groups(
    weight: Tensor, channels: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[slice, Tensor, Sequence[int], Sequence[int]]]:
    """Shares that one launch computes: their channels in the map, weight, counts of channels and kernel sizes.

    All but the first have as many channels. The weight of a single share is (n, C', K, K), of several (n, numbers).
    """
    if len(channels) > 1 and len(set(channels[1:])) == 1:
        yield slice(None), weight, channels, sizes
        return
    begin = number = 0
    for count, size in zip(channels, sizes, strict=True):
        numbers = count * size * size
        kernel = weight
        if weight.ndim == 2:
            kernel = weight[:, number : number + numbers].unflatten(1, (count, size, size))
        yield slice(begin, begin + count), kernel, (count,), (size,)
        begin, number = begin + count, number + numbers


def launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, channels: Sequence[int], sizes: Sequence[int], *,
    edges: Tensor | None = None, packed: bool = False, flipped: bool = False, identity: bool = False,
    gelu: bool = False,
) -> None:  # fmt: skip
    """Convolve a map by one kernel, which is compiled for these sizes and options on first use.

    Args:
        x: (B, C, H, W), with adjacent channels.
        weight: With one share (1 or B, C, K, K) in any layout; with several (1 or B, numbers), the kernels (C', K, K)
            one after another. Packed, (sum of K * K, C' or more): the positions of one kernel after another.
        bias: (1 or B, C), in any layout.
        out: The result, as ``x``.
        channels: Of the shares; all but the first have as many.
        sizes: K of the shares.
        edges: What a shift of the map adds, as :func:`of_shift` takes it: (sum of (K + 1) * (K + 1), as the packed
            weight), in float32.
        packed: Whether the weight is packed.
        flipped: Turn the kernels by 180 degrees, as the gradient of the input needs it.
        identity: Add the map.
        gelu: Apply GELU at the end.
    """
    batch, _, height, width = x.shape
    first, share = channels[0], channels[-1]
    block = blocks(width, share)
    if weight.ndim == 4 and weight.stride(1) != 1 and x.numel() > LARGE_MAP * len(weight):
        weight = weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # which threads read at once
    tiles = cdiv(height, ROWS) * cdiv(width, block["COLUMNS"])
    grid = (tiles, channel_blocks(channels, block["CHANNELS"]), batch)
    given = x if bias is None else bias
    steps_of_weight = _steps_of(weight, packed)
    positions = before([size * size for size in sizes], with_first=packed)
    of_edges = before([(size + 1) ** 2 for size in sizes], with_first=True)
    convolve[grid](
        x, weight, given, x if edges is None else edges, out, height, width, first, share, *steps(x), *steps(out),
        *steps_of_weight, given.stride(0) if len(given) > 1 else 0, given.stride(1), SIZES=tuple(sizes),
        BEFORE=positions, EDGES_BEFORE=of_edges, PACKED=packed, FLIPPED=flipped, BIAS=bias is not None,
        IDENTITY=identity, SHIFT=edges is not None, GELU=gelu, ROWS=ROWS, VECTOR=vector(x, out, channels=channels),
        WEIGHT_VECTOR=_weight_vector(steps_of_weight), **block,
    )  # fmt: skip


def _steps_of(weight: Tensor, packed: bool) -> tuple[int, int, int, int]:
    """Elements between images, channels, rows and columns of kernels; those of several shares have one step."""
    if packed:
        return 0, 1, round(len(weight) ** 0.5) * weight.stride(0), weight.stride(0)  # rows are those of a single share
    of_image = weight.stride(0) if len(weight) > 1 else 0
    if weight.ndim == 2:
        return of_image, 0, 0, weight.stride(1)
    return of_image, weight.stride(1), weight.stride(2), weight.stride(3)


def _weight_vector(weight_steps: tuple[int, int, int, int]) -> int:
    """Values of adjacent channels that a thread may load at once."""
    of_image, of_channel, of_row, of_column = weight_steps
    if of_channel != 1:
        return 1
    return next(size for size in (8, 4, 2, 1) if not any(step % size for step in (of_image, of_row, of_column)))
