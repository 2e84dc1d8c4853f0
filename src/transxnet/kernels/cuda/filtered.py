"""A depthwise convolution with any stride, GELU and the affine map after it, for inference."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.depthwise import launch
from transxnet.kernels.cuda.depthwise_tiles import laid_out, steps, vector
from transxnet.kernels.cuda.rows import cdiv, gelu, next_power_of_2, whole

THREADS_VALUES = 512
"""Values of a tile: four for each of a program's 128 threads."""


@triton.jit
def _strided(
    x, weight, bias, scale, shift, out, channels, height, width, out_height, out_width, x_b, x_h, x_w, out_b, out_h,
    out_w, w_c, w_y, w_x, SIZE: tl.constexpr, STRIDE: tl.constexpr, AFFINE: tl.constexpr, COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Some pixels of a row of the result, for some channels; sums are in float32."""
    channels, x_b, x_h, x_w = whole(channels, VECTOR), whole(x_b, VECTOR), whole(x_h, VECTOR), whole(x_w, VECTOR)
    out_b, out_h, out_w = whole(out_b, VECTOR), whole(out_h, VECTOR), whole(out_w, VECTOR)
    across = tl.cdiv(out_width, COLUMNS)
    row = tl.program_id(0) // across
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    image = tl.program_id(2).to(tl.int64)
    inside = channel < channels
    sums = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    sums += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    for ky in range(SIZE):
        y = row * STRIDE + ky - SIZE // 2
        for kx in range(SIZE):
            source = column * STRIDE + kx - SIZE // 2
            known = (y >= 0) & (y < height) & (source >= 0) & (source < width) & inside
            value = tl.load(x + image * x_b + y * x_h + source * x_w + channel, mask=known, other=0.0).to(tl.float32)
            factor = tl.load(weight + channel * w_c + ky * w_y + kx * w_x, mask=inside, other=0.0).to(tl.float32)
            sums += value * factor
    sums = gelu(sums)
    if AFFINE:
        sums *= tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)
        sums += tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    target = out + image * out_b + row * out_h + column * out_w + channel
    tl.store(target, sums.to(out.dtype.element_ty), mask=(column < out_width) & inside)


def forward(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, stride: int) -> Tensor:
    """Convolve a map; arguments as for the operator.

    Returns:
        (B, C, H / stride, W / stride), rounded up, channels last in memory.
    """
    x = laid_out(x)
    batch, channels, height, width = x.shape
    size = weight.shape[-1]
    lengths = [(length - 1 + size // 2 * 2 - size + 1) // stride + 1 for length in (height, width)]
    shape = (batch, channels, *lengths)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if stride == 1 and scale is None and size <= 7:
        launch(x, weight[None, :, 0], bias.unsqueeze(0), out, [channels], [size], gelu=True)
        return out
    deep = min(next_power_of_2(channels), 64)
    columns = max(min(next_power_of_2(lengths[1]), THREADS_VALUES // deep), 1)
    grid = (lengths[0] * cdiv(lengths[1], columns), cdiv(channels, deep), batch)
    _strided[grid](
        x, weight, bias, bias if scale is None else scale, bias if shift is None else shift, out, channels, height,
        width, *lengths, *steps(x), *steps(out), weight.stride(0), weight.stride(2), weight.stride(3), SIZE=size,
        STRIDE=stride, AFFINE=scale is not None, COLUMNS=columns, CHANNELS=deep,
        VECTOR=vector(x, out, channels=[channels]),
    )  # fmt: skip
    return out
