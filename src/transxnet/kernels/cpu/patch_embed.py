"""Convolutions of patches by native kernels, in float16."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.kernels.cpu import layouts, numbers
from transxnet.kernels.cpu.constants import in_pairs, packed, suits_float16


class NativeConv2d(nn.Module):
    """A convolution in float16, as a matrix product with patches, for maps in 16 bits on processors that support it.

    Otherwise PyTorch computes it, which is as fast.

    Args:
        conv: A convolution with one group and a bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.conv = conv
        self._weight = packed(conv.weight.permute(0, 2, 3, 1).flatten(1))
        self._bias = conv.bias.detach().float().clone()
        self._size, self._stride, self._padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        self._suits = suits_float16(self._weight, self._bias)
        self._plans: dict[torch.dtype, tuple[layouts.Convolution, tuple[Tensor, Tensor]]] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to (B, C', H', W'), channels last in memory.

        Raises:
            ConfigError: If the map is not on a CPU, has another type, or requires a gradient.
        """
        numbers.check(x)
        batch, _, *sides = x.shape
        out_sides = [(side + 2 * self._padding - self._size) // self._stride + 1 for side in sides]
        shape = (batch, len(self._bias), *out_sides)
        x = x.contiguous(memory_format=torch.channels_last)

        def run(number: torch.dtype) -> Tensor:
            if number == torch.float32:
                found: Tensor = self.conv(x)
                return found
            out = x.new_empty(shape).contiguous(memory_format=torch.channels_last)
            numbers.function(f"convolution_{numbers.TYPES[x.dtype]}", number)(
                ctypes.byref(self._laid_out()), (ctypes.c_int64 * 4)(batch, *sides, x.shape[1]),
                ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()), ctypes.c_int(torch.get_num_threads()),
            )  # fmt: skip
            return out

        return numbers.computed(run, x.dtype, lambda: self._suits)

    def _laid_out(self) -> layouts.Convolution:
        number = torch.float16
        if number not in self._plans:
            weight, bias = in_pairs(self._weight).to(number).contiguous(), self._bias.to(number)
            matrix = layouts.Matrix(weight.data_ptr(), bias.data_ptr(), self._weight.shape[1], len(bias))
            plan = layouts.Convolution(matrix, self._size, self._stride, self._padding)
            self._plans.setdefault(number, (plan, (weight, bias)))  # shared by threads, as in NativeBlock
        return self._plans[number][0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}

    @staticmethod
    def takes(conv: Any) -> bool:
        """Whether a convolution is supported."""
        return (
            type(conv) is nn.Conv2d
            and conv.groups == 1
            and conv.bias is not None
            and conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and all(len(set(pair)) == 1 and not isinstance(pair, str) for pair in (conv.kernel_size, conv.stride))
            and isinstance(conv.padding, tuple)
            and len(set(conv.padding)) == 1
        )
