"""The operators: schema, shapes, gradients, and for CPUs the kernels. ``torch.ops.transxnet`` has them.

An operator is computed by a kernel where there is one for the device and type, and by PyTorch's operations
(:mod:`~transxnet.kernels.composite`) elsewhere. Maps are returned with the channels last in memory. A gradient
that is not asked for is returned empty. Gradients cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from transxnet.kernels import composite
from transxnet.kernels.cpu import attention as cpu_attention
from transxnet.kernels.cpu import batch_norm as cpu_batch_norm
from transxnet.kernels.cpu import depthwise as cpu_depthwise
from transxnet.kernels.cpu import gelu as cpu_gelu
from transxnet.kernels.cpu import layer_scale as cpu_layer_scale

SCHEMAS = (
    # Kernels are shared (n = 1) or every image's own (n = B); weight (n, numbers of all kernels) has those of the first
    # share of the channels first, (C', K, K); bias (n, C).
    "depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, int[] channels, int[] sizes, bool identity) -> Tensor",
    "depthwise_conv2d_backward(Tensor gradient, Tensor x, Tensor weight, int[] channels, int[] sizes, bool identity, "
    "bool of_input, bool of_parameters) -> (Tensor, Tensor, Tensor)",
    # q (B, C, H, W), scaled; kv (B, 2 C, h, w); bias (1, heads, N, M), or its factors: (1, heads, N, m) and columns
    # (M, m).
    "attention(Tensor q, Tensor kv, Tensor bias, Tensor? columns, int heads) -> Tensor",
    "attention_backward(Tensor gradient, Tensor q, Tensor kv, Tensor bias, Tensor? columns, Tensor out, int heads, "
    "bool of_bias) -> (Tensor, Tensor, Tensor)",
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

_CPU: dict[str, ModuleType] = {
    "depthwise_conv2d": cpu_depthwise,
    "attention": cpu_attention,
    "batch_norm": cpu_batch_norm,
    "gelu": cpu_gelu,
    "layer_scale": cpu_layer_scale,
}
"""Where the kernels for CPUs are; each module has a ``forward`` and a ``backward``."""

_library = torch.library.Library("transxnet", "DEF")
_compute: dict[str, Callable[..., Any]] = {}
"""How each operator is computed on a CPU."""

_differentiable: dict[str, Callable[..., Any]] = {}
"""The same, with a gradient."""


def _define() -> None:
    for schema in SCHEMAS:
        _library.define(schema)
        name = schema.partition("(")[0]
        _library.impl(name, getattr(composite, name), "CompositeExplicitAutograd")
        _compute[name] = _on_cpu(name)
        _library.impl(name, _compute[name], "CPU")


def _on_cpu(name: str) -> Callable[..., Any]:
    """An operator of float32 tensors by its kernel, and of others as elsewhere."""
    operator, function = name.removesuffix("_backward"), "backward" if name.endswith("_backward") else "forward"
    module, otherwise = _CPU[operator], getattr(composite, name)

    def compute(*given: Any) -> Any:
        tensors = [one for one in given if isinstance(one, Tensor)]
        if name == "batch_norm_backward":
            tensors.pop()  # the statistics are float64
        takes = given[0].numel() > 0 and all(one.dtype == torch.float32 for one in tensors)
        return getattr(module, function)(*given) if takes else otherwise(*given)

    return compute


_define()


def _last(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _if(wanted: bool, like: Tensor, *, last: bool = False) -> Tensor:
    return (_last(like) if last else torch.empty_like(like)) if wanted else like.new_empty(0)


def _shapes(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.register_fake(f"transxnet::{name}", lib=_library)  # type: ignore[no-any-return]


def _gradients(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register an operator's gradients. What ``torch.library.register_autograd`` makes of them calls the dispatcher
    four times, which takes as long as a small map's kernel; plain tensors go to the kernels at once here.
    """
    operator, kernel = getattr(torch.ops.transxnet, name).default, _compute[name]

    def below(*given: Any) -> Any:
        if _is_plain(given[0]):
            return kernel(*given)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*given)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            output = below(*given)
            setup(ctx, given, output)
            return output

    Function.__name__ = Function.__qualname__ = name  # as profilers show it
    Function.backward = staticmethod(backward)  # type: ignore[method-assign]

    def compute(*given: Any) -> Any:
        differentiable = torch.is_grad_enabled() and torch._C._any_requires_grad(*given)
        return Function.apply(*given) if differentiable else below(*given)

    _differentiable[name] = compute
    _library.impl(name, compute, "Autograd")
    torch.library.register_autograd(f"transxnet::{name}_backward", _refuse, lib=_library)


def _gradients_of(name: str, *given: Any) -> Any:
    """Call an operator's ``backward``."""
    if _is_plain(given[0]) and not torch.is_grad_enabled():
        return _compute[f"{name}_backward"](*given)
    return getattr(torch.ops.transxnet, f"{name}_backward").default(*given)


def _is_plain(x: Tensor) -> bool:
    """Whether a tensor is on a CPU, and nothing records or transforms what is done with it."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and _get_current_dispatch_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _caller(name: str) -> Callable[..., Any]:
    """An operator to call; plain tensors do without the dispatcher, which takes as long as a small map's kernel."""
    operator, direct = getattr(torch.ops.transxnet, name).default, _differentiable[name]

    def call(*given: Any) -> Any:
        return direct(*given) if _is_plain(given[0]) else operator(*given)

    return call


def _refuse(ctx: Any, *gradients: Tensor) -> Any:
    raise RuntimeError(
        "the gradients of TransXNet's kernels cannot be differentiated again; compute them with "
        "transxnet.kernels.use('reference')"
    )


@_shapes("depthwise_conv2d")
def _(x: Tensor, weight: Tensor, bias: Any, channels: Any, sizes: Any, identity: bool) -> Tensor:
    return _last(x)


@_shapes("depthwise_conv2d_backward")
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, channels: Any, sizes: Any, identity: bool, of_input: bool,
    of_parameters: bool,
) -> Any:  # fmt: skip
    bias = x.new_empty(weight.shape[0], x.shape[1])
    return _if(of_input, x, last=True), _if(of_parameters, weight), _if(of_parameters, bias)


def _keep_depthwise(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _depthwise_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_input, *of_parameters = ctx.needs_input_grad[:3]
    back, weight, bias = _gradients_of(
        "depthwise_conv2d", gradient, *ctx.saved_tensors, *ctx.settings, of_input, any(of_parameters)
    )
    parameters = (weight, bias if ctx.has_bias else None) if any(of_parameters) else (None, None)
    return back if of_input else None, *parameters, None, None, None


_gradients("depthwise_conv2d", _keep_depthwise, _depthwise_gradients)


@_shapes("attention")
def _(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int) -> Tensor:
    return _last(q)


@_shapes("attention_backward")
def _(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    of_bias: bool,
) -> Any:  # fmt: skip
    return _last(q), kv.new_empty(kv.shape), bias.new_empty(bias.shape if of_bias else 0)


def _keep_attention(ctx: Any, inputs: Any, output: Tensor) -> None:
    *tensors, ctx.heads = inputs
    ctx.save_for_backward(*tensors, output)


def _attention_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_bias = ctx.needs_input_grad[2]
    q, kv, bias = _gradients_of("attention", gradient, *ctx.saved_tensors, ctx.heads, of_bias)
    return q, kv, bias if of_bias else None, None, None


_gradients("attention", _keep_attention, _attention_gradients)


@_shapes("batch_norm")
def _(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str,
) -> Any:  # fmt: skip
    statistics = x.new_empty(2, x.shape[1], dtype=torch.float64)
    return _last(x), statistics, torch.empty_like(running_mean), torch.empty_like(running_var)


@_shapes("batch_norm_backward")
def _(gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, of_input: bool) -> Any:
    return _if(of_input, x, last=True), torch.empty_like(weight), torch.empty_like(bias)


def _keep_batch_norm(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, *_, ctx.gelu = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, bias, output[1])


def _batch_norm_gradients(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    back, weight, bias = _gradients_of("batch_norm", gradient, *ctx.saved_tensors, ctx.gelu, of_input)
    return back if of_input else None, weight, bias, None, None, None, None, None


_gradients("batch_norm", _keep_batch_norm, _batch_norm_gradients)


@_shapes("gelu")
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_shapes("gelu_backward")
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep_gelu(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _gelu_gradient(ctx: Any, gradient: Tensor) -> Tensor:
    return _gradients_of("gelu", gradient, *ctx.saved_tensors)  # type: ignore[no-any-return]


_gradients("gelu", _keep_gelu, _gelu_gradient)


@_shapes("layer_scale")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _last(x)


@_shapes("layer_scale_backward")
def _(gradient: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> Any:
    return _if(of_input, x, last=True), torch.empty_like(weight), torch.empty_like(weight)


def _keep_layer_scale(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _layer_scale_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_input = ctx.needs_input_grad[0]
    back, weight, bias = _gradients_of("layer_scale", gradient, *ctx.saved_tensors, of_input)
    return back if of_input else None, weight, bias


_gradients("layer_scale", _keep_layer_scale, _layer_scale_gradients)


depthwise_conv2d: Callable[..., Tensor] = _caller("depthwise_conv2d")
attention: Callable[..., Tensor] = _caller("attention")
batch_norm: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _caller("batch_norm")
gelu: Callable[..., Tensor] = _caller("gelu")
layer_scale: Callable[..., Tensor] = _caller("layer_scale")
