"""Normalisation of each image over all its channels and positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.operators import registration

SCHEMAS = (
    # Returns the map; means and reciprocal deviations of images (B, 2), float64.
    "group_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    "group_norm_backward(Tensor gradient, Tensor x, Tensor weight, Tensor statistics, bool of_input) "
    "-> (Tensor, Tensor, Tensor)",
)

registration.CUDA["group_norm"] = "group_norm"
registration.define(*SCHEMAS)


@registration.shapes("group_norm")
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
    return registration.last(x), x.new_empty(len(x), 2, dtype=torch.float64)


@registration.shapes("group_norm_backward")
def _(gradient: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, of_input: bool) -> Any:
    return registration.if_wanted(of_input, x, channels_last=True), torch.empty_like(weight), torch.empty_like(weight)


def _keep_group_norm(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, *_ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _group_norm_gradients(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    back, weight, bias = registration.gradients_of("group_norm", gradient, *ctx.saved_tensors, of_input)
    return back if of_input else None, weight, bias, None


registration.gradients("group_norm", _keep_group_norm, _group_norm_gradients)

group_norm: Callable[..., tuple[Tensor, Tensor]] = registration.caller("group_norm")
