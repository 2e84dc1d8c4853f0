"""Fused blocks of a stage, computed by the kernels."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from transxnet.kernels.cpu import layouts, numbers
from transxnet.kernels.cpu.constants import NativeBlock
from transxnet.kernels.reference import Bias, FactoredBias


@functools.cache
def _functions(number: torch.dtype, stored: torch.dtype) -> tuple[Callable[..., int], Callable[..., int]]:
    """The functions for a block's scratch size and for blocks, by the types of computation and storage."""
    count, pointer = ctypes.c_int, ctypes.c_void_p
    room, blocks = (numbers.function(name, number) for name in ("block_room", f"blocks_{numbers.TYPES[stored]}"))
    typed: Any = room
    typed.argtypes, typed.restype = (pointer, pointer, ctypes.c_int64, count), ctypes.c_int64
    typed = blocks
    typed.argtypes, typed.restype = (pointer, count, *[pointer] * 5, count), None
    return room, blocks


class Workspace:
    """Scratch memory of blocks, one per thread, reused by the next block."""

    def __init__(self) -> None:
        self._memory = threading.local()

    def bytes(self, count: int) -> Tensor:
        """At least ``count`` bytes; contents are uninitialised."""
        kept: Tensor | None = getattr(self._memory, "kept", None)
        if kept is None or len(kept) < count:
            self._memory.kept = None  # frees it before allocating the larger one
            kept = self._memory.kept = torch.empty(count, dtype=torch.uint8)
        return kept

    def __deepcopy__(self, memo: Any) -> Workspace:
        return Workspace()

    def __reduce__(self) -> Any:
        return Workspace, ()


class NativeBlocks(nn.Module):
    """The blocks of one stage in one call, for maps on a CPU.

    Args:
        blocks: The constants of the blocks.
        workspace: Scratch memory shared by the stages of a network.
    """

    def __init__(self, blocks: Sequence[NativeBlock], workspace: Workspace) -> None:
        super().__init__()
        self.workspace = workspace
        self.blocks = nn.ModuleList(blocks)
        self._suits: bool | None = None
        self.eval()

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W), channels last in memory.

        Raises:
            ConfigError: If the map is not on a CPU, has another type, or requires a gradient.
        """
        numbers.check(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if not len(x):
            return torch.empty_like(x)
        return numbers.computed(lambda number: self._run(x, position_bias, number), x.dtype, self.suits_float16)

    def suits_float16(self) -> bool:
        """Whether float16 can represent all constants."""
        if self._suits is None:
            self._suits = all(cast(NativeBlock, block).suits_float16() for block in self.blocks)
        return self._suits

    def _run(self, x: Tensor, position_bias: Bias, number: torch.dtype) -> Tensor:
        """All blocks, computed in float32 or float16."""
        out = torch.empty_like(x)
        batch, channels, height, width = x.shape
        shape, threads = (ctypes.c_int64 * 4)(batch, height, width, channels), torch.get_num_threads()
        bias, kept = _bias(position_bias, number)
        plans = [cast(NativeBlock, block).laid_out(number) for block in self.blocks]
        room, run = _functions(number, x.dtype)
        memory = self.workspace.bytes(max(room(ctypes.byref(plan), shape, bias.stored, threads) for plan in plans))
        addresses = (ctypes.c_void_p * len(plans))(*map(ctypes.addressof, plans))
        run(addresses, len(plans), shape, x.data_ptr(), out.data_ptr(), ctypes.byref(bias), memory.data_ptr(), threads)
        del kept  # the bias has to stay in memory until here
        return out


def _bias(position_bias: Bias, number: torch.dtype) -> tuple[layouts.Bias, tuple[Tensor, ...]]:
    """The kernels' structure of a bias, and the tensors that have to stay in memory for it."""
    if isinstance(position_bias, FactoredBias):
        rows, columns = (part.detach().to(number).contiguous() for part in position_bias)
        return layouts.Bias(None, rows.data_ptr(), columns.data_ptr(), columns.shape[1]), (rows, columns)
    whole = position_bias.detach().to(number).contiguous()
    return layouts.Bias(whole.data_ptr(), None, None, 0), (whole,)
