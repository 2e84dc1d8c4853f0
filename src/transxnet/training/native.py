"""What a network spends most of its time on by our own kernels while it is trained on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from transxnet.deploy.native.attention import attention
from transxnet.deploy.native.batch_norm import batch_norm, gelu, is_gelu, takes_batch, takes_dense
from transxnet.deploy.native.build import library
from transxnet.deploy.native.constants import is_depthwise
from transxnet.deploy.native.convolution import KERNEL_SIZES, depthwise, takes
from transxnet.deploy.native.layer_scale import scaled, takes_scale
from transxnet.layers import MSFFN, OSRA, BatchNorm2d, IDConv, LayerScale
from transxnet.layers.ms_ffn import MultiScaleConv
from transxnet.layers.position_bias import Bias


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return _convolve(input, [self]) if takes(input) else super().forward(input)

    def beside_identity(self, x: Tensor) -> Tensor:
        return _convolve(x, [self], identity=True) if takes(x) else x + self(x)


class _MultiScaleConv(MultiScaleConv):
    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.scales) if takes(x) else super().forward(x)

    def beside_identity(self, x: Tensor) -> Tensor:
        return _convolve(x, self.scales, identity=True) if takes(x) else x + self(x)


def _convolve(x: Tensor, convs: Any, *, identity: bool = False) -> Tensor:
    """Depthwise convolutions, each on its share of the channels; the identity beside them is one more in the middle."""
    kernels = [conv.weight.transpose(0, 1) for conv in convs]
    if identity:
        kernels = [kernel + _identity(kernel) for kernel in kernels]
    biases = [kernel.new_zeros(kernel.shape[:2]) if conv.bias is None else conv.bias.unsqueeze(0)
              for kernel, conv in zip(kernels, convs, strict=True)]  # fmt: skip
    return depthwise(x, kernels, biases)


def _identity(kernel: Tensor) -> Tensor:
    size = kernel.shape[-1]
    one = torch.zeros(size, size)
    one[size // 2, size // 2] = 1.0
    return one


class _OSRA(OSRA):
    def attend(self, q: Tensor, kv: Tensor, position_bias: Bias) -> Tensor:
        if not (takes(q) and takes(kv) and position_bias[0].dtype == torch.float32):
            return super().attend(q, kv, position_bias)
        return attention(q * (q.shape[1] // self.heads) ** -0.5, kv, position_bias, self.heads)


class _IDConv(IDConv):
    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return depthwise(x, [kernel], [bias]) if takes(x) else super().convolve(x, kernel, bias)


@register_notrace_module
class _BatchNorm2d(BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return batch_norm(self, input) if takes_batch(self, input) else super().forward(input)


class _GELU(nn.GELU):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return gelu(input) if takes_dense(input) else super().forward(input)


class _LayerScale(LayerScale):
    def forward(self, x: Tensor) -> Tensor:
        known = takes_scale(x, self.weight, self.bias)
        return scaled(x, self.weight, self.bias) if known else super().forward(x)


class _Sequential(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        x, rest = input, list(self)
        while rest:
            pair = _pair(rest[0], rest[1], x) if len(rest) > 1 else None
            x = rest[0](x) if pair is None else pair
            del rest[: 1 if pair is None else 2]
        return x


class _MSFFN(MSFFN):
    def activate(self, x: Tensor) -> Tensor:
        pair = _pair(self.act, self.norm, x)
        return super().activate(x) if pair is None else pair


def _pair(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor | None:
    """GELU and batch normalisation, in any order, as one operation; None if there is none for these modules and x."""
    norm, act = (first, second) if isinstance(first, _BatchNorm2d) else (second, first)
    if not (isinstance(norm, _BatchNorm2d) and isinstance(act, _GELU) and takes_batch(norm, x)):
        return None
    if _has_hooks(norm) or _has_hooks(act):  # somebody looks on between them
        return None
    return batch_norm(norm, x, "before" if norm is second else "after")


def _has_hooks(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks)


def use_native_kernels(network: nn.Module) -> None:
    """Let a network compute by our kernels what there are kernels for, where its maps are float32 on a CPU.

    These are depthwise convolutions, IDConv's among them, attention, layer scales, GELU, and in training batch
    normalisation, at once with GELU where they follow each other; other maps than those with channels last are
    normalised and scaled by PyTorch. The gradients are exact; they cannot be differentiated again.
    Weights, names and results stay.

    Raises:
        ConfigError: If there is no C++ compiler for the kernels.
    """
    library()
    kinds: Any = {
        BatchNorm2d: _BatchNorm2d,
        nn.Sequential: _Sequential,
        MSFFN: _MSFFN,
        OSRA: _OSRA,
        LayerScale: _LayerScale,
    }
    for module in network.modules():
        if type(module) is MultiScaleConv and all(is_depthwise(scale) for scale in module.scales):
            module.__class__ = _MultiScaleConv
        elif type(module) is IDConv and module.kernel_size in KERNEL_SIZES:
            module.__class__ = _IDConv
    for module in network.modules():
        if is_depthwise(module):
            module.__class__ = _Conv2d
        elif type(module) is nn.GELU and is_gelu(module):
            module.__class__ = _GELU
        elif type(module) in kinds:
            module.__class__ = kinds[type(module)]
