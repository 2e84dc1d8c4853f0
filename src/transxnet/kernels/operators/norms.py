"""Batch normalisation, GELU and the scales of branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transxnet.kernels.cpu import batch_norm as cpu_batch_norm
from transxnet.kernels.cpu import gelu as cpu_gelu
from transxnet.kernels.cpu import layer_scale as cpu_layer_scale
from transxnet.kernels.operators import registration

SCHEMAS = (
    # gelu: none, before or after. Returns the map; means and reciprocal deviations (2, C), float64; the new running
    # means and variances (C).
    "batch_norm(Tensor x, Tensor weight, Tensor bias, Tensor running_mean, Tensor running_var, float momentum, "
    "float eps, str gelu) -> (Tensor, Tensor, Tensor, Tensor)",
    "batch_norm_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bias, Tensor statistics, str gelu, "
    "bool of_input) -> (Tensor, Tensor, Tensor)",
    "gelu(Tensor x) -> Tensor",
    "gelu_backward(Tensor gradient, Tensor x) -> Tensor",
    "layer_scale(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    "layer_scale_backward(Tensor gradient, Tensor x, Tensor weight, bool of_input) -> (Tensor, Tensor, Tensor)",
)

registration.CUDA |= {"batch_norm": "batch_norm"}
registration.CPU |= {"batch_norm": cpu_batch_norm, "gelu": cpu_gelu, "layer_scale": cpu_layer_scale}
registration.define(*SCHEMAS)


@registration.shapes("batch_norm")
def _(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str,
) -> Any:  # fmt: skip
    statistics = x.new_empty(2, x.shape[1], dtype=torch.float64)
    return registration.last(x), statistics, torch.empty_like(running_mean), torch.empty_like(running_var)


@registration.shapes("batch_norm_backward")
def _(gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, of_input: bool) -> Any:
    return registration.if_wanted(of_input, x, channels_last=True), torch.empty_like(weight), torch.empty_like(bias)


def _keep_batch_norm(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, *_, ctx.gelu = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, bias, output[1])


def _batch_norm_gradients(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    back, weight, bias = registration.gradients_of("batch_norm", gradient, *ctx.saved_tensors, ctx.gelu, of_input)
    return back if of_input else None, weight, bias, None, None, None, None, None


registration.gradients("batch_norm", _keep_batch_norm, _batch_norm_gradients)


@registration.shapes("gelu")
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@registration.shapes("gelu_backward")
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep_gelu(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _gelu_gradient(ctx: Any, gradient: Tensor) -> Tensor:
    return registration.gradients_of("gelu", gradient, *ctx.saved_tensors)  # type: ignore[no-any-return]


registration.gradients("gelu", _keep_gelu, _gelu_gradient)


@registration.shapes("layer_scale")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return registration.last(x)


@registration.shapes("layer_scale_backward")
def _(gradient: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> Any:
    return registration.if_wanted(of_input, x, channels_last=True), torch.empty_like(weight), torch.empty_like(weight)


def _keep_layer_scale(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _layer_scale_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    back, weight, bias = registration.gradients_of("layer_scale", gradient, *ctx.saved_tensors, of_input)
    return back if of_input else None, weight, bias


registration.gradients("layer_scale", _keep_layer_scale, _layer_scale_gradients)


batch_norm: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = registration.caller("batch_norm")
gelu: Callable[..., Tensor] = registration.caller("gelu")
layer_scale: Callable[..., Tensor] = registration.caller("layer_scale")
