"""The scale of a residual branch."""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.kernels import layer_scale


@register_notrace_module
class LayerScale(nn.Module):
    """A learned weight and bias for each channel.

    The parameters are (C, 1, 1), so that the usual rule "tensors of one dimension and those named
    bias are not decayed" treats them as the released recipe does: the weight is decayed.
    """

    def __init__(self, channels: int, init: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), float(init)))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return layer_scale(x, self.weight, self.bias)
