"""IDConv's kernels and biases: a mixture of a bank's by the attention of its groups."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from transxnet.kernels.cuda.rows import cdiv

VALUES = 512
"""Values of a program."""


@triton.jit
def _mix(
    scores, bank, out, channels, positions, count, bank_g, bank_c, bank_p, GROUPS: tl.constexpr, VALUES: tl.constexpr
):
    """Some values (P, C) of an image's kernels; the sums are in float32."""
    index = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    image = tl.program_id(1).to(tl.int64)
    inside = index < count
    position, channel = index // channels, index % channels
    entry = bank + channel * bank_c + position * bank_p
    if GROUPS == 2:  # the softmax of two is the sigmoid of their difference
        difference = tl.load(scores + image * count + index, mask=inside, other=0.0).to(tl.float32)
        first = tl.load(entry, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(entry + bank_g, mask=inside, other=0.0).to(tl.float32)
        mixed = second + (first - second) / (1.0 + tl.exp(-difference))
    else:
        score = scores + image * count * GROUPS + position * (channels * GROUPS) + channel
        largest = tl.load(score, mask=inside, other=0.0).to(tl.float32)
        for group in range(1, GROUPS):
            largest = tl.maximum(largest, tl.load(score + group * channels, mask=inside, other=0.0).to(tl.float32))
        mixed = tl.zeros((VALUES,), tl.float32)
        total = tl.zeros((VALUES,), tl.float32)
        for group in range(GROUPS):
            share = tl.exp(tl.load(score + group * channels, mask=inside, other=0.0).to(tl.float32) - largest)
            mixed += share * tl.load(entry + group * bank_g, mask=inside, other=0.0).to(tl.float32)
            total += share
        mixed /= total
    tl.store(out + image * count + index, mixed, mask=inside)


def forward(scores: Tensor, bank: Tensor) -> Tensor:
    """Shapes: (B, P, G * C), with two groups (B, P, C), and (G, C, P); returns (B, P, C) in float32."""
    groups, channels, positions = bank.shape
    scores = scores.contiguous()
    out = scores.new_empty(len(scores), positions, channels, dtype=torch.float32)
    count = positions * channels
    _mix[cdiv(count, VALUES), len(scores)](
        scores, bank, out, channels, positions, count, *bank.stride(), GROUPS=groups, VALUES=VALUES
    )
    return out
