"""Attention by our kernels, with gradients: no map of all queries and keys is kept, or made but for a whole bias."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transxnet.deploy.native import layouts
from transxnet.deploy.native.build import library
from transxnet.layers.position_bias import Bias, FactoredBias


def attention(q: Tensor, kv: Tensor, position_bias: Bias, heads: int) -> Tensor:
    """Attention of all places of a map to those of another, float32 on a CPU.

    Args:
        q: (B, C, H, W), scaled.
        kv: (B, 2 C, h, w): keys, then values.
        position_bias: (1, heads, H * W, h * w), or its factors, of which the columns get no gradient.
        heads: Each has C / heads channels, side by side.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    factored = isinstance(position_bias, FactoredBias)
    bias, columns = position_bias if factored else (position_bias, None)
    return _Attention.apply(q, kv, bias, columns, heads)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int) -> Tensor:
        q, kv = (x.contiguous(memory_format=torch.channels_last) for x in (q, kv))
        bias, columns = bias.contiguous(), None if columns is None else columns.contiguous()
        out = torch.empty_like(q)
        job = _job(q, kv, bias, columns, heads, out)
        space = q.new_empty(_functions().attention_room(ctypes.byref(job)))
        _functions().attention_float32(ctypes.byref(job), space.data_ptr(), torch.get_num_threads())
        ctx.save_for_backward(q, kv, bias, columns, out)
        ctx.heads = heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, kv, bias, columns, out = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = kv.shape
        of_q = torch.empty_like(q)
        of_kv = kv.new_empty(2, batch, ctx.heads, height * width, channels // 2 // ctx.heads)
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        job = layouts.AttentionGradients(
            _job(q, kv, bias, columns, ctx.heads, out), gradient.data_ptr(), of_q.data_ptr(), of_kv[0].data_ptr(),
            of_kv[1].data_ptr(), None if of_bias is None else of_bias.data_ptr(),
        )  # fmt: skip
        _functions().attention_gradients_float32(ctypes.byref(job), torch.get_num_threads())
        maps = of_kv.permute(1, 0, 2, 4, 3).reshape(kv.shape)  # (B, 2, heads, d, M)
        return of_q, maps, of_bias, None, None


def _job(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, out: Tensor) -> layouts.Attention:
    batch, channels, height, width = q.shape
    whole, rows = (bias.data_ptr(), None) if columns is None else (None, bias.data_ptr())
    keys = kv.shape[2] * kv.shape[3]
    return layouts.Attention(
        batch, height * width, keys, heads, channels // heads, q.data_ptr(), channels, kv.data_ptr(),
        kv.data_ptr() + channels * kv.element_size(), 2 * channels, out.data_ptr(), channels, whole, rows,
        None if columns is None else columns.data_ptr(), 0 if columns is None else columns.shape[1],
    )  # fmt: skip


@functools.cache
def _functions() -> ctypes.CDLL:
    kernels, job = library(), ctypes.POINTER(layouts.Attention)
    kernels.attention_room.argtypes, kernels.attention_room.restype = (job,), ctypes.c_int64
    kernels.attention_float32.argtypes = (job, ctypes.c_void_p, ctypes.c_int)
    kernels.attention_gradients_float32.argtypes = (ctypes.POINTER(layouts.AttentionGradients), ctypes.c_int)
    kernels.attention_float32.restype = kernels.attention_gradients_float32.restype = None
    return kernels
