"""Depthwise convolutions of fused networks, by kernels for CUDA devices where the tensors are on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.kernels import depthwise_conv2d, operators
from transxnet.kernels.cpu.depthwise import KERNEL_SIZES
from transxnet.kernels.functional import in_autocast_type
from transxnet.kernels.policy import is_triton
from transxnet.layers.affine import Affine
from transxnet.layers.sequential import is_plain


def takes(x: Tensor) -> bool:
    """Whether a map is computed by the kernels for CUDA devices that have no gradient."""
    return is_triton(x) and x.ndim == 4 and x.numel() > 0 and not (torch.is_grad_enabled() and x.requires_grad)


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A part of a block, usually a depthwise convolution.

    Shapes: (B, C, H, W) to the same.
    """
    if not (is_triton(x) and is_depthwise(conv)):
        return conv(x)  # type: ignore[no-any-return]
    return depthwise_conv2d(x, [cast(Tensor, conv.weight)], [cast(Tensor, conv.bias)])


def activated(conv: nn.Module, x: Tensor) -> Tensor:
    """GELU of a convolution.

    Shapes: (B, C, H, W) to the same.
    """
    if not (takes(x) and is_depthwise(conv)):
        return F.gelu(conv(x))
    return operators.filtered_conv2d(in_autocast_type(x), conv.weight, conv.bias, None, None, 1)


def reduced(osr: nn.Module, x: Tensor) -> Tensor:
    """Overlapping spatial reduction: a strided depthwise convolution, GELU and an affine map; or nothing.

    Shapes: (B, C, H, W) to (B, C, H / S, W / S).
    """
    if not (takes(x) and isinstance(osr, nn.Sequential) and len(osr) == 3):
        return osr(x)  # type: ignore[no-any-return]
    conv, _, affine = osr
    if not (is_depthwise(conv, stride=None) and type(affine) is Affine):
        return osr(x)  # type: ignore[no-any-return]
    conv = cast(Any, conv)
    return operators.filtered_conv2d(
        in_autocast_type(x), conv.weight, conv.bias, affine.scale, affine.shift, conv.stride[0]
    )


def is_depthwise(conv: Any, stride: int | None = 1) -> bool:
    """Whether the kernels can compute a part: a depthwise convolution padded by half its kernel.

    Args:
        conv: Any part.
        stride: That it has to have; with 1 its size has to be known too. None takes all strides.
    """
    return (
        is_plain(conv, nn.Conv2d)
        and type(conv) is nn.Conv2d
        and conv.bias is not None
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.kernel_size[0] % 2 == 1
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.stride[0] == conv.stride[1]
        and (stride is None or (conv.stride[0] == stride and conv.kernel_size[0] in KERNEL_SIZES))
    )


class SplitScales(nn.Module):
    """Each scale on its share of the channels.

    Args:
        channels: Of each share.
        scales: Map (B, channels, H, W) to the same.
    """

    def __init__(self, channels: Sequence[int], scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        parts = torch.split(x, self.channels, dim=1)
        return torch.cat([scale(parts[index]) for index, scale in enumerate(self.scales)], dim=1)


class MultiScale(nn.Sequential):
    """An affine map and the depthwise convolutions after it.

    On a CUDA device it has the constants of the kernel that computes both, in float32 even where the network is
    converted to 16 bits. They follow ``load_state_dict``, but no other change of the weights.

    Args:
        affine: An affine map.
        scales: Depthwise convolutions on shares of the channels, or one on all.
    """

    def __init__(self, affine: Affine, scales: nn.Module) -> None:
        super().__init__(affine, scales)
        for name in _CONSTANTS:
            self.register_buffer(name, None, persistent=False)
        self.register_load_state_dict_post_hook(_repack)  # type: ignore[no-untyped-call]
        if affine.scale.device.type == "cuda":
            self._keep(self._pack(), affine.scale.device)

    def takes(self, x: Tensor) -> bool:
        """Whether the kernel for CUDA devices computes a map."""
        return takes(x) and all(is_depthwise(one) or type(one) is nn.Identity for one in self._convs()[1])

    def with_gelu(self, x: Tensor) -> Tensor:
        """GELU of the result, for a map that the kernel takes.

        Shapes: (B, C, H, W) to the same.
        """
        constants = [getattr(self, name) for name in _CONSTANTS]
        if constants[0] is None or constants[0].device != x.device:
            constants = self._pack()
        channels, convs = self._convs()
        sizes = [conv.kernel_size[0] if isinstance(conv, nn.Conv2d) else 1 for conv in convs]
        return operators.multi_scale_conv2d(in_autocast_type(x), *constants, channels, sizes)

    def _convs(self) -> tuple[list[int], list[nn.Module]]:
        """Channels and convolution of each share."""
        affine, scales = cast(Affine, self[0]), self[1]
        if type(scales) is SplitScales:
            return scales.channels, list(scales.scales)
        return [affine.scale.numel()], [scales]

    def _pack(self) -> list[Tensor]:
        """The kernel's constants: what the shift adds (sum of (K + 1)², C'), the positions of the kernels times the
        scale (sum of K * K, C'), the bias (C).
        """
        affine = cast(Affine, self[0])
        channels, convs = self._convs()
        weights, biases, edges = [], [], []
        scales, shifts = (one.detach().float()[:, None, None, None] for one in (affine.scale, affine.shift))
        of_shares = zip(channels, convs, scales.split(channels), shifts.split(channels), strict=True)
        for count, conv, scale, shift in of_shares:
            known = isinstance(conv, nn.Conv2d)
            weight = cast(Tensor, conv.weight).detach() if known else affine.scale.new_ones(count, 1, 1, 1)
            edges.append(_rows(F.pad((weight * shift).cumsum(2).cumsum(3), (1, 0, 1, 0)), max(channels)))
            weights.append(_rows(weight * scale, max(channels)))
            biases.append(cast(Tensor, conv.bias).detach() if known else affine.scale.new_zeros(count))
        constants = (torch.cat(edges), torch.cat(weights), torch.cat(biases))
        return [one.float().contiguous() for one in constants]

    def _keep(self, constants: list[Tensor], device: torch.device) -> None:
        for name, value in zip(_CONSTANTS, constants, strict=True):
            setattr(self, name, value.to(device))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move the constants, and convert all but them."""
        constants = [getattr(self, name) for name in _CONSTANTS]
        if constants[0] is None:
            constants = self._pack() if self._is_packable() else []
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = cast(Affine, self[0]).scale.device
        for name in _CONSTANTS:
            setattr(self, name, None)
        if device.type == "cuda" and constants:
            self._keep(constants, device)
        return self

    def _is_packable(self) -> bool:
        affine = cast(Affine, self[0])
        known = all(isinstance(one, (nn.Conv2d, nn.Identity)) for one in self._convs()[1])
        return known and affine.scale.device.type != "meta"


def _rows(kernels: Tensor, channels: int) -> Tensor:
    """Shapes: (C', 1, K, K) to (K * K, channels), padded with zeros."""
    return F.pad(kernels.flatten(1).T, (0, channels - len(kernels)))


def _repack(module: MultiScale, incompatible: Any) -> None:
    """Make the constants anew from weights that were loaded."""
    constants = getattr(module, _CONSTANTS[0])
    if constants is not None:
        module._keep(module._pack(), constants.device)


_CONSTANTS = ("packed_edges", "packed_weight", "packed_bias")
