"""Residual sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.operators import registration

SCHEMAS = (
    # x + keep * (branch * weight + bias), of x's type; weight and bias (C, 1, 1), keep (B), float32.
    "residual(Tensor x, Tensor branch, Tensor? weight, Tensor? bias, Tensor? keep) -> Tensor",
    "residual_backward(Tensor gradient, Tensor branch, Tensor? weight, Tensor? keep, bool of_branch) "
    "-> (Tensor, Tensor, Tensor)",
)

registration.CUDA["residual"] = "residual"
registration.define(*SCHEMAS)


@registration.shapes("residual")
def _(x: Tensor, branch: Tensor, weight: Tensor | None, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    return registration.last(x)


@registration.shapes("residual_backward")
def _(gradient: Tensor, branch: Tensor, weight: Tensor | None, keep: Tensor | None, of_branch: bool) -> Any:
    back = registration.last(branch) if of_branch else branch.new_empty(0)
    if weight is None:
        return back, *(branch.new_empty(0, dtype=torch.float32) for _ in range(2))
    return back, *(weight.new_empty(weight.shape) for _ in range(2))


def _keep_residual(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, branch, weight, _, keep = inputs
    ctx.save_for_backward(branch, weight, keep)


def _residual_gradients(ctx: Any, gradient: Tensor) -> Any:
    branch, weight, keep = ctx.saved_tensors
    of_branch = ctx.needs_input_grad[1]
    if weight is None and not of_branch:
        return gradient, None, None, None, None
    back, of_weight, of_bias = registration.gradients_of("residual", gradient, branch, weight, keep, of_branch)
    parameters = (None, None) if weight is None else (of_weight, of_bias)
    return gradient, back if of_branch else None, *parameters, None


registration.gradients("residual", _keep_residual, _residual_gradients)

residual: Callable[..., Tensor] = registration.caller("residual")
