"""Depthwise convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from transxnet.kernels.cpu import depthwise as cpu_depthwise
from transxnet.kernels.operators import registration

SCHEMAS = (
    # Kernels are shared (n = 1) or every image's own (n = B); weight (n, numbers of all kernels) has those of the first
    # share of the channels first, (C', K, K); with one share it may be (n, C, K, K), in any layout. bias (n, C).
    "depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, int[] channels, int[] sizes, bool identity) -> Tensor",
    "depthwise_conv2d_backward(Tensor gradient, Tensor x, Tensor weight, int[] channels, int[] sizes, bool identity, "
    "bool of_input, bool of_parameters) -> (Tensor, Tensor, Tensor)",
)

registration.CPU["depthwise_conv2d"] = cpu_depthwise
registration.CUDA["depthwise_conv2d"] = "depthwise"
registration.define(*SCHEMAS)


@registration.shapes("depthwise_conv2d")
def _(x: Tensor, weight: Tensor, bias: Any, channels: Any, sizes: Any, identity: bool) -> Tensor:
    return registration.last(x)


@registration.shapes("depthwise_conv2d_backward")
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, channels: Any, sizes: Any, identity: bool, of_input: bool,
    of_parameters: bool,
) -> Any:  # fmt: skip
    of_weight, of_bias = weight.new_empty(weight.shape), weight.new_empty(weight.shape[0], x.shape[1])
    parameters = registration.if_wanted(of_parameters, of_weight), registration.if_wanted(of_parameters, of_bias)
    return registration.if_wanted(of_input, x, channels_last=True), *parameters


def _keep_depthwise(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _depthwise_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_input, *of_parameters = ctx.needs_input_grad[:3]
    back, weight, bias = registration.gradients_of(
        "depthwise_conv2d", gradient, *ctx.saved_tensors, *ctx.settings, of_input, any(of_parameters)
    )
    parameters = (weight, bias if ctx.has_bias else None) if any(of_parameters) else (None, None)
    return back if of_input else None, *parameters, None, None, None


registration.gradients("depthwise_conv2d", _keep_depthwise, _depthwise_gradients)


depthwise_conv2d: Callable[..., Tensor] = registration.caller("depthwise_conv2d")
