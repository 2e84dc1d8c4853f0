"""Attention with a position bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from transxnet.kernels.cpu import attention as cpu_attention
from transxnet.kernels.operators import registration

SCHEMAS = (
    # q (B, C, H, W); kv (B, 2 C, h, w); bias (1, heads, N, M), or its factors: (1, heads, N, m) and columns (M, m);
    # scale of the products of queries and keys.
    "attention(Tensor q, Tensor kv, Tensor bias, Tensor? columns, int heads, float scale) -> Tensor",
    "attention_backward(Tensor gradient, Tensor q, Tensor kv, Tensor bias, Tensor? columns, Tensor out, int heads, "
    "float scale, bool of_bias) -> (Tensor, Tensor, Tensor)",
)

registration.CPU["attention"], registration.CUDA["attention"] = cpu_attention, "attention"
registration.define(*SCHEMAS)


@registration.shapes("attention")
def _(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, scale: float) -> Tensor:
    return registration.last(q)


@registration.shapes("attention_backward")
def _(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    scale: float, of_bias: bool,
) -> Any:  # fmt: skip
    return registration.last(q), kv.new_empty(kv.shape), bias.new_empty(bias.shape if of_bias else 0)


def _keep_attention(ctx: Any, inputs: Any, output: Tensor) -> None:
    *tensors, ctx.heads, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output)


def _attention_gradients(ctx: Any, gradient: Tensor) -> Any:
    of_bias = ctx.needs_input_grad[2]
    q, kv, bias = registration.gradients_of("attention", gradient, *ctx.saved_tensors, ctx.heads, ctx.scale, of_bias)
    return q, kv, bias if of_bias else None, None, None, None


registration.gradients("attention", _keep_attention, _attention_gradients)


attention: Callable[..., Tensor] = registration.caller("attention")
