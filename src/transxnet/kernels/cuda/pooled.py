"""Means of a map's bins and of the whole map, the positions of IDConv's attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.depthwise_tiles import laid_out, steps, vector
from transxnet.kernels.cuda.rows import whole

PIXELS = 32
"""Pixels that a program reads at once."""

MAX_CHANNELS = 32
"""Channels of a program."""

LARGEST_MAP = 4096
"""Pixels up to which one program of the kernel computes the mean of the whole map."""


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


def forward(x: Tensor, size: int) -> Tensor:
    """Shapes: (B, C, H, W) to (B, size * size + 1, C)."""
    x = laid_out(x)
    batch, channels, height, width = x.shape
    out = x.new_empty(batch, size * size + 1, channels)
    in_one = height * width <= LARGEST_MAP
    deep = min(triton.next_power_of_2(channels), MAX_CHANNELS)
    _bins[size * size + in_one, triton.cdiv(channels, deep), batch](
        x, out, channels, height, width, *steps(x), out.stride(0), out.stride(1), SIZE=size, PIXELS=PIXELS,
        CHANNELS=deep, VECTOR=vector(x, channels=[channels]),
    )  # fmt: skip
    if not in_one:
        out[:, -1] = torch.mean(x, (2, 3))
    return out
