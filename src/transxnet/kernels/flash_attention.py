"""Attention with a factored position bias in a form that PyTorch's flash attention computes: without a mask.

The bias is the product of its factors, rows @ columns^T, so it is part of the products of queries and keys if the rows
are further channels of the queries and the columns of the keys. The values get zeros, for heads of one width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from transxnet.kernels.reference import FactoredBias

MULTIPLE = 8
"""Flash attention takes heads whose width is a multiple of it."""


def attention(q: Tensor, kv: Tensor, position_bias: FactoredBias, heads: int, scale: float) -> Tensor:
    """Attention as of :func:`transxnet.kernels.attention`, exact, with gradients; (B, C, H, W), channels last."""
    batch, channels, height, width = q.shape
    wide, stored = channels // heads, position_bias.columns.shape[1]
    spare = -(wide + stored) % MULTIPLE
    queries, keys, values = (_heads(x, heads) for x in (q, *kv.chunk(2, dim=1)))
    rows = position_bias.rows.to(q.dtype).expand(batch, -1, -1, -1)
    columns = position_bias.columns.to(q.dtype).expand(batch, heads, -1, -1)
    queries = torch.cat((queries * scale, F.pad(rows, (0, spare))), dim=3)
    keys = torch.cat((keys, F.pad(columns, (0, spare))), dim=3)
    mixed = F.scaled_dot_product_attention(queries, keys, F.pad(values, (0, stored + spare)), scale=1.0)
    mixed = mixed[..., :wide].transpose(1, 2).reshape(batch, height, width, channels)
    return mixed.permute(0, 3, 1, 2)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Tokens (B, heads, N, d) of a map (B, C, H, W), a view where its channels are last in memory."""
    return x.reshape(len(x), heads, x.shape[1] // heads, -1).transpose(2, 3)
