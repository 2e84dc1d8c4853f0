"""Batch normalisation by the statistics of several processes' batches.

An all-reduce of one vector, in the forward and in the backward pass, is part of the operator: the host waits for
nothing, and ``torch.compile`` keeps the operator in its graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.operators import registration

SCHEMAS = (
    # As batch_norm, with the name of a process group; the statistics (3, C) have the number of values as third row.
    "synchronised_batch_norm(Tensor x, Tensor weight, Tensor bias, Tensor running_mean, Tensor running_var, "
    "float momentum, float eps, str gelu, str group) -> (Tensor, Tensor, Tensor, Tensor)",
    "synchronised_batch_norm_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bias, Tensor statistics, "
    "str gelu, str group, bool of_input) -> (Tensor, Tensor, Tensor)",
)

registration.CUDA["synchronised_batch_norm"] = "synchronised_batch_norm"
registration.define(*SCHEMAS)


@registration.shapes("synchronised_batch_norm")
def _(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str, group: str,
) -> Any:  # fmt: skip
    statistics = x.new_empty(3, x.shape[1], dtype=torch.float64)
    return registration.last(x), statistics, torch.empty_like(running_mean), torch.empty_like(running_var)


@registration.shapes("synchronised_batch_norm_backward")
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, group: str,
    of_input: bool,
) -> Any:  # fmt: skip
    return registration.if_wanted(of_input, x, channels_last=True), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, *_, ctx.gelu, ctx.group = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, bias, output[1])


def _gradients(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    settings = (ctx.gelu, ctx.group, of_input)
    back, weight, bias = registration.gradients_of("synchronised_batch_norm", gradient, *ctx.saved_tensors, *settings)
    return back if of_input else None, weight, bias, *[None] * 6


registration.gradients("synchronised_batch_norm", _keep, _gradients)

synchronised_batch_norm: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = registration.caller(
    "synchronised_batch_norm"
)
