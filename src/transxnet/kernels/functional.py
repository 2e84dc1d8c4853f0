"""The operators as layers call them: computed by PyTorch, or by ``torch.ops.transxnet`` where that has kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from transxnet.kernels import flash_attention, operators, reference
from transxnet.kernels.cpu.depthwise import KERNEL_SIZES
from transxnet.kernels.cpu.gelu import is_dense
from transxnet.kernels.policy import TYPES, is_for_cuda, is_native, is_triton
from transxnet.kernels.reference import Bias, FactoredBias

GELUOrder = Literal["none", "before", "after"]
"""GELU beside a batch normalisation: none, before it or after it."""


FEW_KEYS = 64
"""Keys up to which the kernels for CUDA devices hold all of a query's scores in registers."""

MOST_STORED = 64
"""Columns of a factored position bias up to which these kernels take it, in factors."""

WIDEST_HEAD = 128
"""Channels of a head up to which these kernels take it."""


def depthwise_conv2d(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, identity: bool = False
) -> Tensor:
    """Depthwise convolutions, each on its share of the channels, with stride 1, padded to keep the map's size.

    Args:
        x: (B, C, H, W).
        weights: (C', 1, K, K), with K odd, of each share; the C' add up to C.
        biases: (C') of each share, or None.
        identity: Add the input to the result.

    Returns:
        (B, C, H, W).
    """
    sizes = [weight.shape[-1] for weight in weights]
    if not (is_native(x) and _has_kernel(x, weights, sizes)):
        return reference.depthwise_conv2d(x, weights, biases, identity)
    x = in_autocast_type(x)
    channels = [len(weight) for weight in weights]
    if len(weights) == 1:
        weight, bias = weights[0].reshape(1, -1), None if biases[0] is None else biases[0].unsqueeze(0)
    else:
        weight = torch.cat([one.flatten() for one in weights]).unsqueeze(0)
        given = zip(weights, biases, strict=True)
        bias = torch.cat([one.new_zeros(len(one)) if b is None else b for one, b in given]).unsqueeze(0)
    return operators.depthwise_conv2d(x, weight, bias, channels, sizes, identity)


def dynamic_depthwise_conv2d(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """A depthwise convolution of every image with its own kernel, with stride 1, padded to keep the map's size.

    Shapes: x (B, C, H, W), kernel (B, C, K, K) with K odd, bias (B, C); returns (B, C, H, W).
    """
    sizes = [kernel.shape[-1]]
    if not (is_native(x) and _has_kernel(x, [kernel], sizes)):
        return reference.dynamic_depthwise_conv2d(x, kernel, bias)
    kernel = kernel if is_triton(x) else kernel.flatten(1)
    return operators.depthwise_conv2d(in_autocast_type(x), kernel, bias, [x.shape[1]], sizes, False)


def _has_kernel(x: Tensor, weights: Sequence[Tensor], sizes: Sequence[int]) -> bool:
    types = TYPES if is_triton(x) else (torch.float32,)
    return all(size in KERNEL_SIZES for size in sizes) and all(weight.dtype in types for weight in weights)


def in_autocast_type(x: Tensor) -> Tensor:
    """A map for the kernels of CUDA devices in autocast's type, if that is on, as PyTorch casts it for convolutions."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if is_triton(x) and torch.is_autocast_enabled(device) else x


def attention(q: Tensor, kv: Tensor, position_bias: Bias, heads: int, scale: float | None = None) -> Tensor:
    """Attention of all pixels of a map to those of another.

    Args:
        q: (B, C, H, W).
        kv: (B, 2 C, h, w): keys, then values.
        position_bias: (1, heads, H * W, h * w), or its factors, of which the columns get no gradient.
        heads: Each has C / heads channels, side by side.
        scale: Of the products of queries and keys; (C / heads) ** -0.5 if not given.

    Returns:
        (B, C, H, W).
    """
    bias, columns = position_bias if isinstance(position_bias, FactoredBias) else (position_bias, None)
    types, widest = (TYPES, WIDEST_HEAD) if is_triton(q) else ((torch.float32,), q.shape[1])
    if not (is_native(q) and is_native(kv) and bias.dtype in types and q.shape[1] <= heads * widest):
        return reference.attention(q, kv, position_bias, heads, scale)
    q, kv = in_autocast_type(q), in_autocast_type(kv)
    scale = (q.shape[1] // heads) ** -0.5 if scale is None else scale
    if isinstance(position_bias, FactoredBias) and is_triton(q) and position_bias.columns.shape[1] > MOST_STORED:
        return flash_attention.attention(q, kv, position_bias, heads, scale)
    if q.device.type == "cpu" and scale != 1.0:  # once; the kernels would do it in the backward pass again
        q, scale = q * scale, 1.0
    return operators.attention(q, kv, bias, columns, heads, scale)


def prefers_factors(x: Tensor, keys: int) -> bool:
    """Whether attention of a map to so many keys is faster with a factored position bias, of whatever size."""
    return is_triton(x) and keys > FEW_KEYS


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, *, momentum: float, eps: float,
    gelu: GELUOrder = "none", group: str = "",
) -> Tensor:  # fmt: skip
    """Normalise a map by its own statistics, as training does, and put them to the running ones.

    Args:
        x: (B, C, H, W), with more than one value for each channel.
        weight: (C).
        bias: (C).
        running_mean: (C); it is changed.
        running_var: (C); it is changed.
        momentum: Share of the running statistics that is new.
        eps: Added to the variances.
        gelu: GELU of the map before it is normalised, or after that.
        group: Name of a process group whose processes normalise by the statistics of all of their maps.

    Returns:
        (B, C, H, W).
    """
    parameters = (weight, bias, running_mean, running_var)
    if group:
        y, _, new_mean, new_var = operators.synchronised_batch_norm(x, *parameters, momentum, eps, gelu, group)
        torch._foreach_copy_([running_mean, running_var], [new_mean, new_var])
        return y
    if not (is_native(x) and _is_normalised_natively(x, parameters)):
        return reference.batch_norm(x, weight, bias, running_mean, running_var, momentum, eps, gelu)
    y, _, new_mean, new_var = operators.batch_norm(x, *parameters, momentum, eps, gelu)
    torch._foreach_copy_([running_mean, running_var], [new_mean, new_var])  # one launch
    return y


def _is_normalised_natively(x: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether parameters and map fit each other, and on CPUs the channels are last; kernels for CUDA convert maps."""
    return (
        x.ndim == 4
        and (is_for_cuda(x) or x.is_contiguous(memory_format=torch.channels_last))
        and x.numel() > x.shape[1]
        and all(part.dtype == torch.float32 and part.shape == (x.shape[1],) for part in parameters)
    )


def gelu(x: Tensor) -> Tensor:
    """GELU, not approximated, of a tensor of any shape."""
    native = is_native(x) and not is_for_cuda(x) and is_dense(x)  # compilers for CUDA fuse PyTorch's with others
    return operators.gelu(x) if native else F.gelu(x)


def layer_scale(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A scale and shift of each channel, x * weight + bias.

    Shapes: x (B, C, H, W), weight and bias (C, 1, 1); returns (B, C, H, W).
    """
    native = (
        is_native(x)
        and not is_for_cuda(x)
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(part.dtype == x.dtype and part.numel() == x.shape[1] for part in (weight, bias))
    )
    return operators.layer_scale(x, weight, bias) if native else reference.layer_scale(x, weight, bias)


def residual(
    x: Tensor, branch: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, keep: Tensor | None = None
) -> Tensor:
    """A residual sum, x + keep * (branch * weight + bias), of the type of ``x`` where a kernel computes it.

    Args:
        x: (B, C, H, W).
        branch: (B, C, H, W).
        weight: Scale of the branch, (C, 1, 1), with ``bias``, or neither.
        bias: (C, 1, 1).
        keep: Factor of the branch for each image, (B), of float32.

    Returns:
        (B, C, H, W).
    """
    given = [one for one in (weight, bias) if one is not None]
    native = (
        is_native(x)
        and is_native(branch)
        and is_for_cuda(x)
        and x.ndim == 4
        and x.shape == branch.shape
        and all(one.dtype == torch.float32 and one.numel() == x.shape[1] for one in given)
    )
    compute = operators.residual if native else reference.residual
    return compute(x, branch, weight, bias, keep)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each image over all its channels and positions, then scale and shift each channel.

    Shapes: x (B, C, H, W), weight and bias (C); returns (B, C, H, W), of the type of ``x`` if a kernel computes it.
    """
    native = (
        is_native(x)
        and is_for_cuda(x)
        and x.ndim == 4
        and x.numel() > 0
        and all(one.dtype in (torch.float32, x.dtype) and one.shape == (x.shape[1],) for one in (weight, bias))
    )
    return operators.group_norm(x, weight, bias, eps)[0] if native else F.group_norm(x, 1, weight, bias, eps)
