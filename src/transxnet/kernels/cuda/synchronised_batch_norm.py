"""Batch normalisation by the statistics of several processes' batches."""

from __future__ import annotations

import torch
from torch import Tensor

from transxnet.kernels.cuda import batch_norm
from transxnet.kernels.cuda.rows import cdiv, in_rows
from transxnet.kernels.processes import add_up


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str, group: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the operator ``synchronised_batch_norm``."""
    channels = x.shape[1]
    x, step = in_rows(x)
    running = (running_mean, running_var, torch.empty_like(running_mean), torch.empty_like(running_var))
    settings = {"MOMENTUM": momentum, "EPS": eps}
    sums = x.new_empty(2 * channels + 1, dtype=torch.float64)
    batch_norm.combine(x, step, gelu, sums, None, running, settings)
    add_up(sums, group)
    statistics = x.new_empty(3, channels, dtype=torch.float64)
    wide = batch_norm.COMBINED["CHANNELS"]
    batch_norm._finish[(cdiv(channels, wide),)](sums, statistics, *running, channels, CHANNELS=wide, **settings)
    return batch_norm.normalised(x, step, weight, bias, statistics, gelu), statistics, *running[2:]


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, group: str,
    of_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute the operator ``synchronised_batch_norm_backward``."""
    x, step = in_rows(x)
    gradient, gradient_step = in_rows(gradient)
    given, steps = (gradient, x, weight, bias, statistics), (gradient_step, step)
    sums, of_weight, of_bias = batch_norm.summed(*given, steps, gelu)
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    add_up(sums, group)
    return batch_norm.input_gradient(*given, sums, steps, gelu, alone=False), of_weight, of_bias
