"""The network's depthwise convolutions, normalisations and GELUs by our own kernels while it is trained on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transxnet.deploy.native.build import library
from transxnet.deploy.native.constants import is_depthwise
from transxnet.deploy.native.convolution import KERNEL_SIZES, depthwise, takes
from transxnet.deploy.native.normalisation import batch_norm, gelu, normalises
from transxnet.layers import IDConv
from transxnet.layers.ms_ffn import MSFFN, MultiScaleConv
from transxnet.layers.norm import BatchNorm2d


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


class _IDConv(IDConv):
    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return depthwise(x, [kernel], [bias]) if takes(x) else super().convolve(x, kernel, bias)


class _BatchNorm2d(BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return batch_norm(self, input) if normalises(self, input) else super().forward(input)

    def after_gelu(self, x: Tensor) -> Any:
        """Of GELU of x."""
        return batch_norm(self, x, activate=True) if normalises(self, x) else self(nn.functional.gelu(x))


class _GELU(nn.GELU):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return gelu(input) if takes(input) else super().forward(input)


class _Sequential(nn.Sequential):
    """GELU and a normalisation that follows it at once."""

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Any] = list(self)
        while parts:
            part = parts.pop(0)
            if type(part) is _GELU and parts and type(parts[0]) is _BatchNorm2d:
                x = parts.pop(0).after_gelu(x)
            else:
                x = part(x)
        return x


class _MSFFN(MSFFN):
    def normalise(self, x: Tensor) -> Any:
        norm: Any = self.norm
        if type(self.act) is _GELU and type(norm) is _BatchNorm2d:
            return norm.after_gelu(x)
        return super().normalise(x)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    BatchNorm2d: _BatchNorm2d, nn.Sequential: _Sequential, MSFFN: _MSFFN,
}  # fmt: skip


def use_native_kernels(network: nn.Module) -> None:
    """Let a network compute what takes long by our kernels where its maps are float32.

    These are depthwise convolutions, IDConv's among them, batch normalisations with the batch's statistics, and GELU.
    Their gradients are exact; they cannot be differentiated again. Weights, names and results stay.

    Raises:
        ConfigError: If there is no C++ compiler for the kernels.
    """
    library()
    for module in network.modules():
        if type(module) is MultiScaleConv and all(is_depthwise(scale) for scale in module.scales):
            module.__class__ = _MultiScaleConv
        elif type(module) is IDConv and module.kernel_size in KERNEL_SIZES:
            module.__class__ = _IDConv
        elif type(module) is nn.GELU and module.approximate == "none":
            module.__class__ = _GELU
        else:
            module.__class__ = _PLAIN.get(type(module), type(module))
    for module in network.modules():
        if is_depthwise(module):
            module.__class__ = _Conv2d
