"""Parameters and multiply-accumulate operations (MACs), fully and by the paper's rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transxnet.layers import BatchNorm2d, LayerScale


@dataclass(frozen=True)
class Complexity:
    """The cost of a network for one image.

    Attributes:
        parameters: All parameters, position biases included.
        macs: Every convolution and matrix product, inside attention and IDConv too, and one for
            each value that a residual branch's scale multiplies.
        paper_macs: The paper's "FLOPs": see :func:`paper_macs`.
    """

    parameters: int
    macs: int
    paper_macs: int


def complexity(model: nn.Module, input_size: tuple[int, int, int]) -> Complexity:
    """Count a network for an input of (channels, height, width), without computing anything.

    The counts are taken on a copy on PyTorch's meta device, in evaluation mode.
    """
    model = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, *input_size, device="meta")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, _true_macs(model, image), paper_macs(model, image))


def _true_macs(model: nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        scaled = _sum_over_calls(model, image, (LayerScale,), lambda module, given, output: output.numel())
    return int(counter.get_total_flops()) // 2 + scaled


def paper_macs(model: nn.Module, image: Tensor) -> int:
    """MACs as the paper counts them (Tables I to IX): by the modules that a forward pass calls.

    Convolutions count their bias, normalisations twice their input, pooling its input. Nothing
    functional counts: no products inside attention, no dynamic convolution, no activation.
    """
    return _sum_over_calls(model, image, _COUNTED, _module_macs)


def _sum_over_calls(
    model: nn.Module,
    image: Tensor,
    types: tuple[type[nn.Module], ...],
    count: Callable[[nn.Module, Tensor, Tensor], int],
) -> int:
    """Run the model, and add up ``count(module, input, output)`` over the calls of some modules."""
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        total += count(module, inputs[0], output)

    hooks = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, types)]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return total


_NORMS = (nn.BatchNorm2d, BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *_NORMS, nn.AdaptiveAvgPool2d, nn.ReLU)


def _module_macs(module: nn.Module, given: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
        return output.numel() * (kernel + (module.bias is not None))
    if isinstance(module, nn.Linear):
        return given.numel() * module.out_features
    if isinstance(module, _NORMS):
        return 2 * given.numel()
    return output.numel() if isinstance(module, nn.ReLU) else given.numel()
