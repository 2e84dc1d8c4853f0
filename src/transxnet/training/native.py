"""The network's depthwise convolutions by our own kernels while it is trained on a CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from transxnet.deploy.native.build import library
from transxnet.deploy.native.constants import is_depthwise
from transxnet.deploy.native.convolution import KERNEL_SIZES, depthwise, takes
from transxnet.layers import IDConv
from transxnet.layers.ms_ffn import MultiScaleConv


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        if not takes(input):
            return super().forward(input)
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return depthwise(input, [self.weight.transpose(0, 1)], [bias.unsqueeze(0)])


class _MultiScaleConv(MultiScaleConv):
    def forward(self, x: Tensor) -> Tensor:
        if not takes(x):
            return super().forward(x)
        scales: Any = self.scales
        kernels = [scale.weight.transpose(0, 1) for scale in scales]
        return depthwise(x, kernels, [scale.bias.unsqueeze(0) for scale in scales])


class _IDConv(IDConv):
    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return depthwise(x, [kernel], [bias]) if takes(x) else super().convolve(x, kernel, bias)


def use_native_kernels(network: nn.Module) -> None:
    """Let a network compute depthwise convolutions, IDConv's among them, by our kernels where its maps are float32.

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
    for module in network.modules():
        if is_depthwise(module):
            module.__class__ = _Conv2d
