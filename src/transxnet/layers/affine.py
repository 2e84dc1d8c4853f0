"""Fixed affine maps folded into the convolutions beside them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Affine(nn.Module):
    """A fixed weight and bias for each channel, where they cannot be folded into a convolution.

    Args:
        scale: (C).
        shift: (C).
        like: Gives the device and type.
        channels_last: Whether maps have their channels last in memory: another of PyTorch's operations
            is then faster.
    """

    zero: Tensor
    variance: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor, channels_last: bool = False) -> None:
        super().__init__()
        self.scale = constant(scale, like)
        self.shift = constant(shift, like)
        self.register_buffer("zero", torch.zeros_like(self.scale), persistent=False)
        self.register_buffer("variance", torch.full_like(self.scale, 0.5), persistent=False)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        if self.channels_last:
            return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])
        # The variance and eps add up to 1 exactly, in every type; some releases of PyTorch refuse an eps of 0.
        return F.batch_norm(x, self.zero, self.variance, self.scale, self.shift, eps=0.5)


class Kernel:
    """A convolution's weight and bias, in float64 while other maps are folded into it.

    Args:
        conv: The convolution; it is not changed.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.weight = exact(conv.weight)
        bias = conv.bias
        self.bias = self.weight.new_zeros(len(self.weight)) if bias is None else exact(bias)

    def then(self, scale: Tensor, shift: Tensor | float = 0.0) -> Self:
        """Followed by an affine map of each channel, (C') each."""
        self.weight = self.weight * scale[:, None, None, None]
        self.bias = self.bias * scale + shift
        return self

    def after(self, scale: Tensor, shift: Tensor) -> Self:
        """Preceded by an affine map of each channel, (C) each: exact for a dense 1x1 convolution without padding.

        With padding, the shift would be missing at the border, where the padding is zero.
        """
        self.bias = self.bias + self.weight[:, :, 0, 0] @ shift
        self.weight = self.weight * scale[:, None, None]
        return self

    def beside_identity(self) -> Self:
        """The sum of a depthwise convolution and its input."""
        self.weight = self.weight.clone()
        height, width = self.weight.shape[2:]
        self.weight[:, :, height // 2, width // 2] += 1
        return self

    def grown(self, size: int) -> Tensor:
        """The weight padded with zeros to a kernel of ``size``."""
        return F.pad(self.weight, [(size - self.weight.shape[-1]) // 2] * 4)

    def to_conv(self) -> nn.Conv2d:
        """The convolution with a bias, not trainable."""
        old = self.conv
        conv = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,  # type: ignore[arg-type]
            padding_mode=old.padding_mode, device="meta",
        )  # fmt: skip
        conv.weight, conv.bias = constant(self.weight, old.weight), constant(self.bias, old.weight)
        return conv.eval()


def fixed_conv(weight: Tensor, bias: Tensor, like: Tensor, groups: int = 1) -> nn.Conv2d:
    """A convolution with given weights on the device and of the type of ``like``, padded by half its kernel."""
    out_channels, per_group, size, _ = weight.shape
    conv = nn.Conv2d(per_group * groups, out_channels, size, padding=size // 2, groups=groups, device="meta")
    conv.weight, conv.bias = constant(weight, like), constant(bias, like)
    return conv.eval()


def exact(value: Tensor) -> Tensor:
    """A tensor's values in float64, which not every device has."""
    return value.detach().to("cpu" if value.device.type == "mps" else value.device).double()


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C) of a batch normalisation in evaluation, in float64."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{type(norm).__name__} is not a fixed affine map")
    scale = (exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * exact(norm.weight)
    shift = -exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + exact(norm.bias)


def constant(value: Tensor, like: Tensor) -> nn.Parameter:
    """Values on the device and of the type of ``like``; not trainable."""
    return nn.Parameter(value.to(like.device, like.dtype).contiguous(), requires_grad=False)
