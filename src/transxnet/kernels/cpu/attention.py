"""Attention and its gradients, without storing the scores of all queries and keys."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from transxnet.kernels.cpu import layouts
from transxnet.kernels.cpu.build import library


def forward(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, scale: float) -> Tensor:
    """Attention from all pixels of a map to those of another; arguments as for the operator, float32.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    check(q, kv, bias, columns, heads)
    q = q if scale == 1.0 else q * scale
    q, kv = (x.contiguous(memory_format=torch.channels_last) for x in (q, kv))
    bias, columns = bias.contiguous(), None if columns is None else columns.contiguous()
    out = torch.empty_like(q, memory_format=torch.channels_last)
    job = _job(q, kv, bias, columns, heads, out)
    scratch = q.new_empty(_functions().attention_room(ctypes.byref(job)))
    _functions().attention_float32(ctypes.byref(job), scratch.data_ptr(), torch.get_num_threads())
    return out


def backward(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    scale: float, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the queries, of the keys and values, and of the bias, which is empty unless requested."""
    q = q if scale == 1.0 else q * scale
    q, kv, out, gradient = (x.contiguous(memory_format=torch.channels_last) for x in (q, kv, out, gradient))
    bias, columns = bias.contiguous(), None if columns is None else columns.contiguous()
    batch, channels, height, width = kv.shape
    q_gradient = torch.empty_like(q, memory_format=torch.channels_last)
    kv_gradient = kv.new_empty(2, batch, heads, height * width, channels // 2 // heads)
    bias_gradient = torch.empty_like(bias) if of_bias else bias.new_empty(0)
    job = layouts.AttentionGradients(
        _job(q, kv, bias, columns, heads, out), gradient.data_ptr(), q_gradient.data_ptr(), kv_gradient[0].data_ptr(),
        kv_gradient[1].data_ptr(), bias_gradient.data_ptr() if of_bias else None,
    )  # fmt: skip
    _functions().attention_gradients_float32(ctypes.byref(job), torch.get_num_threads())
    maps = kv_gradient.permute(1, 0, 2, 4, 3).reshape(kv.shape)  # (B, 2, heads, d, M)
    return q_gradient if scale == 1.0 else q_gradient * scale, maps, bias_gradient


def check(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int) -> None:
    """Refuse arguments of the operator that do not fit each other, rather than read beyond their end.

    Raises:
        ValueError: If they do not.
    """
    batch, channels, height, width = q.shape
    keys = kv.shape[2] * kv.shape[3]
    stored = keys if columns is None else columns.shape[1]
    fits = (
        channels % heads == 0
        and kv.shape[:2] == (batch, 2 * channels)
        and bias.shape == (1, heads, height * width, stored)
        and (columns is None or len(columns) == keys)
    )
    if not fits:
        factor = "" if columns is None else f" times {tuple(columns.shape)}"
        raise ValueError(
            f"attention with {heads} heads does not accept queries {tuple(q.shape)}, keys and values {tuple(kv.shape)} "
            f"and a bias {tuple(bias.shape)}{factor}"
        )


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
