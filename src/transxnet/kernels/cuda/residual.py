"""A residual sum: a map plus a branch, scaled and shifted for each channel, and kept or left out for each image."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import cdiv, in_rows, split, tile, whole


@triton.jit
def _kept(keep, row, rows, area):
    """Factor of the branch in each row's image."""
    return tl.load(keep + row // area, mask=row < rows, other=0.0)


@triton.jit
def _add(
    x, branch, weight, bias, keep, y, rows, channels, area, step, branch_step, SCALED: tl.constexpr,
    KEPT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    channels, step, branch_step = whole(channels, VECTOR), whole(step, VECTOR), whole(branch_step, VECTOR)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = channel < channels
    known = (row < rows) & inside
    value = tl.load(branch + row * branch_step + channel, mask=known, other=0.0).to(tl.float32)
    if SCALED:
        value = value * tl.load(weight + channel, mask=inside, other=0.0)
        value += tl.load(bias + channel, mask=inside, other=0.0)
    if KEPT:
        value *= _kept(keep, row, rows, area)
    value += tl.load(x + row * step + channel, mask=known, other=0.0).to(tl.float32)
    tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=known)


@triton.jit
def _gradients(
    gradient, branch, weight, keep, back, partials, rows, channels, area, gradient_step, branch_step, per_part,
    SCALED: tl.constexpr, KEPT: tl.constexpr, OF_BRANCH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """The branch's gradient in a part of the rows, and the part's sums for weight and bias."""
    channels = whole(channels, VECTOR)
    gradient_step, branch_step = whole(gradient_step, VECTOR), whole(branch_step, VECTOR)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    part = tl.program_id(0) // blocks
    first = part.to(tl.int64) * per_part
    last = tl.minimum(first + per_part, rows)
    inside = channel < channels
    of_weight = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        known = (row < last) & inside
        given = tl.load(gradient + row * gradient_step + channel, mask=known, other=0.0).to(tl.float32)
        if KEPT:
            given *= _kept(keep, row, rows, area)
        if SCALED:
            of_bias += given
            of_weight += given * tl.load(branch + row * branch_step + channel, mask=known, other=0.0).to(tl.float32)
            given *= tl.load(weight + channel, mask=inside, other=0.0)
        if OF_BRANCH:
            tl.store(back + row * channels + channel, given.to(back.dtype.element_ty), mask=known)
    if SCALED:
        out = partials + part * 2 * channels + channel
        tl.store(out, tl.sum(of_weight, 0)[None, :], mask=inside)
        tl.store(out + channels, tl.sum(of_bias, 0)[None, :], mask=inside)


def forward(x: Tensor, branch: Tensor, weight: Tensor | None, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    """Compute the operator ``residual``."""
    x, step = in_rows(x)
    branch, branch_step = in_rows(branch)
    batch, channels, height, width = x.shape
    rows, sizes = batch * height * width, tile(x, step, branch_step)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (cdiv(rows, sizes["ROWS"]) * cdiv(channels, sizes["CHANNELS"]),)
    _add[grid](
        x, branch, x if weight is None else weight, x if bias is None else bias, x if keep is None else keep, y, rows,
        channels, height * width, step, branch_step, SCALED=weight is not None, KEPT=keep is not None, **sizes,
    )  # fmt: skip
    return y


def backward(
    gradient: Tensor, branch: Tensor, weight: Tensor | None, keep: Tensor | None, of_branch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator ``residual_backward``."""
    gradient, gradient_step = in_rows(gradient)
    branch, branch_step = in_rows(branch)
    batch, channels, height, width = branch.shape
    rows, sizes = batch * height * width, tile(branch, gradient_step, branch_step)
    blocks = cdiv(channels, sizes["CHANNELS"])
    parts, per_part = split(rows, blocks, sizes["ROWS"])
    like = branch if of_branch else branch[:0]
    back = torch.empty_like(like, memory_format=torch.channels_last)
    scaled = weight is not None
    partials = branch.new_empty((parts, 2, channels) if scaled else 0, dtype=torch.float32)
    _gradients[(parts * blocks,)](
        gradient, branch, partials if weight is None else weight, partials if keep is None else keep, back, partials,
        rows, channels, height * width, gradient_step, branch_step, per_part, SCALED=scaled, KEPT=keep is not None,
        OF_BRANCH=of_branch, **sizes,
    )  # fmt: skip
    back = back if of_branch else branch.new_empty(0)
    if weight is None:
        return back, partials, partials.clone()
    of_weight, of_bias = partials.sum(0)
    return back, of_weight.reshape(weight.shape), of_bias.reshape(weight.shape).clone()
