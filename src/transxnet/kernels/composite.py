"""The operators of ``torch.ops.transxnet`` and their gradients in PyTorch's operations, for what has no kernel.

Each function has the arguments and results of the operator of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from transxnet.kernels import reference
from transxnet.kernels.processes import add_up
from transxnet.kernels.reference import FactoredBias


def _last(x: Tensor) -> Tensor:
    """The map with channels last, as operators return it."""
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, channels: Sequence[int], sizes: Sequence[int], identity: bool
) -> Tensor:
    bias = weight.new_zeros(len(weight), x.shape[1]) if bias is None else bias
    kernels = _kernels(weight, channels, sizes, len(x))
    parts = zip(x.split(channels, 1), kernels, bias.expand(len(x), -1).split(channels, 1), strict=True)
    y = torch.cat([reference.dynamic_depthwise_conv2d(*each) for each in parts], dim=1)
    return _last(x + y if identity else y)


def depthwise_conv2d_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, channels: Sequence[int], sizes: Sequence[int], identity: bool,
    of_input: bool, of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, _, height, width = x.shape
    inputs, kernels = [], []
    parts = zip(
        gradient.split(channels, 1), x.split(channels, 1), _kernels(weight, channels, sizes, batch), strict=True
    )
    for wanted, share, kernel in parts:
        count, size = kernel.shape[1], kernel.shape[-1]
        flat = (1, batch * count, height, width)
        of_share, of_kernel, _ = torch.ops.aten.convolution_backward(
            wanted.reshape(flat), share.reshape(flat), kernel.reshape(-1, 1, size, size), [0], [1, 1],
            [size // 2] * 2, [1, 1], False, [0, 0], batch * count, [of_input, of_parameters, False],
        )  # fmt: skip
        inputs.append(of_share.reshape(share.shape) if of_input else share.new_empty(0))
        kernels.append(of_kernel.reshape(batch, -1) if of_parameters else weight.new_empty(0))
    back = torch.cat(inputs, dim=1) if of_input else x.new_empty(0)
    if of_input:
        back = _last(back + gradient if identity else back)
    if not of_parameters:
        return back, weight.new_empty(0), weight.new_empty(0)
    weights, biases = torch.cat(kernels, dim=1), gradient.sum((2, 3))
    if len(weight) == 1:
        weights, biases = weights.sum(0, keepdim=True), biases.sum(0, keepdim=True)
    return back, weights.reshape(weight.shape), biases


def _kernels(weight: Tensor, channels: Sequence[int], sizes: Sequence[int], batch: int) -> Iterator[Tensor]:
    """The kernels (B, C', K, K) of each share in a weight (1 or B, all of them)."""
    weight = weight.flatten(1)
    counts = [count * size * size for count, size in zip(channels, sizes, strict=True)]
    for part, count, size in zip(weight.split(counts, 1), channels, sizes, strict=True):
        yield part.reshape(-1, count, size, size).expand(batch, -1, -1, -1)


def attention(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, scale: float) -> Tensor:
    given = bias if columns is None else FactoredBias(bias, columns)
    return _last(reference.attention(q, kv, given, heads, scale))


def attention_backward(
    gradient: Tensor, q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, out: Tensor, heads: int,
    scale: float, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tokens = (len(q), heads, q.shape[1] // heads, -1)
    k, v = kv.chunk(2, dim=1)
    g, q_tokens, k, v = (x.reshape(tokens).transpose(2, 3) for x in (gradient, q, k, v))  # (B, heads, N or M, d)
    whole = bias if columns is None else bias @ columns.T
    weights = (q_tokens * scale @ k.transpose(2, 3) + whole).softmax(dim=-1)  # (B, heads, N, M)
    of_weights = g @ v.transpose(2, 3)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
    of_q = (of_scores @ k * scale).transpose(2, 3).reshape(q.shape)
    of_kv = torch.stack(
        (of_scores.transpose(2, 3) @ q_tokens * scale, weights.transpose(2, 3) @ g)
    )  # (2, B, heads, M, d)
    of_whole = of_scores.sum(0, keepdim=True)
    of_given = of_whole if columns is None else of_whole @ columns
    return (
        _last(of_q),
        of_kv.permute(1, 0, 2, 4, 3).reshape(kv.shape),
        of_given if of_bias else bias.new_empty(0),
    )


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inner = F.gelu(x) if gelu == "before" else x
    variance, mean = torch.var_mean(inner.double(), (0, 2, 3), correction=0)
    statistics = torch.stack((mean, (variance + eps).rsqrt()))
    y = F.batch_norm(inner, None, None, weight, bias, training=True, eps=eps)
    rows = x.numel() // x.shape[1]
    new_mean = running_mean.lerp(mean.to(running_mean.dtype), momentum)
    new_var = running_var.lerp((variance * (rows / max(rows - 1, 1))).to(running_var.dtype), momentum)
    return _last(F.gelu(y) if gelu == "after" else y), statistics, new_mean, new_var


def batch_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean, factor, scale, shift = (part.to(x.dtype)[:, None, None] for part in (*statistics, weight, bias))
    inner = F.gelu(x) if gelu == "before" else x
    normalised = (inner - mean) * factor
    if gelu == "after":
        gradient = torch.ops.aten.gelu_backward(gradient, normalised * scale + shift)
    of_bias, of_weight = gradient.sum((0, 2, 3)), (gradient * normalised).sum((0, 2, 3))
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    rows = x.numel() // x.shape[1]
    lost = (of_bias[:, None, None] + normalised * of_weight[:, None, None]) / rows
    back = scale * factor * (gradient - lost)
    return _last(torch.ops.aten.gelu_backward(back, x) if gelu == "before" else back), of_weight, of_bias


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(torch.ops.aten.gelu_backward(gradient, x))


def layer_scale(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _last(torch.addcmul(bias, x, weight))


def layer_scale_backward(gradient: Tensor, x: Tensor, weight: Tensor, of_input: bool) -> tuple[Tensor, Tensor, Tensor]:
    sums = ((gradient * x).sum((0, 2, 3)), gradient.sum((0, 2, 3)))
    of_weight, of_bias = (one.reshape(weight.shape) for one in sums)
    return _last(gradient * weight) if of_input else x.new_empty(0), of_weight, of_bias


# Residual sums, group normalisation and statistics of several processes


def residual(x: Tensor, branch: Tensor, weight: Tensor | None, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    return _last(reference.residual(x, branch, weight, bias, keep).to(x.dtype))


def residual_backward(
    gradient: Tensor, branch: Tensor, weight: Tensor | None, keep: Tensor | None, of_branch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    given = gradient if keep is None else gradient * keep[:, None, None, None]
    scaled = given if weight is None else given * weight
    back = _last(scaled.to(branch.dtype)) if of_branch else branch.new_empty(0)
    if weight is None:
        return back, branch.new_empty(0, dtype=torch.float32), branch.new_empty(0, dtype=torch.float32)
    of_weight, of_bias = (given * branch).sum((0, 2, 3)), given.sum((0, 2, 3))
    return back, of_weight.to(weight.dtype).reshape(weight.shape), of_bias.to(weight.dtype).reshape(weight.shape)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.double(), (1, 2, 3), correction=0)
    statistics = torch.stack((mean, (variance + eps).rsqrt()), dim=1)
    y = _normalised(x, statistics) * weight[:, None, None] + bias[:, None, None]
    return _last(y.to(x.dtype)), statistics


def group_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    normalised = _normalised(x, statistics)
    product = gradient * normalised
    of_weight, of_bias = product.sum((0, 2, 3)).to(weight.dtype), gradient.double().sum((0, 2, 3)).to(weight.dtype)
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    scale = weight[:, None, None]
    means = [(one * scale).mean((1, 2, 3), keepdim=True) for one in (gradient, product)]
    back = (gradient * scale - means[0] - normalised * means[1]) * statistics[:, 1, None, None, None]
    return _last(back.to(x.dtype)), of_weight, of_bias


def _normalised(x: Tensor, statistics: Tensor) -> Tensor:
    """A map by its images' statistics (B, 2), in float64."""
    mean, factor = statistics[:, :, None, None, None].unbind(1)
    return (x - mean) * factor


def synchronised_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    gelu: str, group: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    channels = x.shape[1]
    inner = F.gelu(x) if gelu == "before" else x
    values = inner.double()
    count = values.new_full((1,), x.numel() // channels)
    sums = torch.cat((values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count))
    add_up(sums, group)
    total, square, count = sums.split((channels, channels, 1))
    mean = total / count
    variance = (square / count - mean.square()).clamp_min(0)
    y = F.batch_norm(inner, mean.to(weight.dtype), variance.to(weight.dtype), weight, bias, training=False, eps=eps)
    new_mean = running_mean.lerp(mean.to(running_mean.dtype), momentum)
    unbiased = variance * (count / (count - 1).clamp_min(1))
    new_var = running_var.lerp(unbiased.to(running_var.dtype), momentum)
    statistics = torch.stack((mean, (variance + eps).rsqrt(), count.expand(channels)))
    return _last(F.gelu(y) if gelu == "after" else y), statistics, new_mean, new_var


def synchronised_batch_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: str, group: str,
    of_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    exact = torch.promote_types(x.dtype, weight.dtype)
    mean, factor, count, scale, shift = (part.to(exact)[:, None, None] for part in (*statistics, weight, bias))
    map_ = x.to(exact)
    normalised = ((F.gelu(map_) if gelu == "before" else map_) - mean) * factor
    given = gradient.to(exact)
    if gelu == "after":
        given = torch.ops.aten.gelu_backward(given, normalised * scale + shift)
    of_bias, of_weight = given.sum((0, 2, 3)), (given * normalised).sum((0, 2, 3))
    if not of_input:
        return x.new_empty(0), of_weight, of_bias
    sums = torch.stack((of_bias, of_weight)).double()
    add_up(sums, group)
    bias_sum, weight_sum = sums.to(exact)[:, :, None, None]
    back = scale * factor * (given - (bias_sum + normalised * weight_sum) / count)
    back = torch.ops.aten.gelu_backward(back, map_) if gelu == "before" else back
    return _last(back.to(x.dtype)), of_weight, of_bias


# Depthwise convolutions of fused networks


def multi_scale_conv2d(
    x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor, channels: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    def kernels(packed: Tensor, sides: Sequence[int]) -> list[Tensor]:
        given = zip(packed.split([side * side for side in sides]), channels, sides, strict=True)
        return [part[:, :count].T.reshape(count, 1, side, side) for part, count, side in given]

    of_shift = [one.diff(dim=2).diff(dim=3).to(x.dtype) for one in kernels(edges, [size + 1 for size in sizes])]
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    zeros = torch.zeros_like(bias).split(list(channels))
    added = reference.depthwise_conv2d(torch.ones_like(x[:1]), of_shift, zeros, False)
    y = reference.depthwise_conv2d(x, kernels(weight, sizes), bias.split(list(channels)), False)
    return _last(F.gelu(y + added))


def filtered_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, stride: int
) -> Tensor:
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    y = F.gelu(F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2, groups=len(weight)))
    if scale is None or shift is None:
        return _last(y)
    return _last(torch.addcmul(shift[:, None, None].to(x.dtype), y, scale[:, None, None].to(x.dtype)))


def pooled_positions(x: Tensor, size: int) -> Tensor:
    bins = F.adaptive_avg_pool2d(x, size).flatten(2)
    return torch.cat((bins, x.mean((2, 3)).unsqueeze(2)), dim=2).transpose(1, 2).contiguous()


def mixed_kernels(scores: Tensor, bank: Tensor) -> Tensor:
    groups, channels, _ = bank.shape
    bank, scores = bank.float().transpose(1, 2), scores.float()  # (G, P, C)
    if groups == 2:
        return torch.addcmul(bank[1], scores.sigmoid(), bank[0] - bank[1])
    shares: Tensor = scores.reshape(*scores.shape[:2], groups, channels).softmax(dim=2)  # (B, P, G, C)
    return (shares * bank.transpose(0, 1)).sum(2)
