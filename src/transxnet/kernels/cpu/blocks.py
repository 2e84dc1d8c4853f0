"""Fused blocks of a stage by the kernels."""

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
    """The memory that a block needs, and blocks, by what is computed in and what maps are stored as."""
    count, pointer = ctypes.c_int, ctypes.c_void_p
    room, blocks = (numbers.function(name, number) for name in ("block_room", f"blocks_{numbers.TYPES[stored]}"))
    typed: Any = room
    typed.argtypes, typed.restype = (pointer, pointer, ctypes.c_int64, count), ctypes.c_int64
    typed = blocks
    typed.argtypes, typed.restype = (pointer, count, *[pointer] * 5, count), None
    return room, blocks


class Workspace:
    """Memory for what a block is done with when it ends; every thread has its own, which stays for the next block."""

    def __init__(self) -> None:
        self._memory = threading.local()

    def bytes(self, count: int) -> Tensor:
        """At least so many; what is in them is chance."""
        kept: Tensor | None = getattr(self._memory, "kept", None)
        if kept is None or len(kept) < count:
            self._memory.kept = None  # before the larger one is made
            kept = self._memory.kept = torch.empty(count, dtype=torch.uint8)
        return kept

    def __deepcopy__(self, memo: Any) -> Workspace:
        return Workspace()

    def __reduce__(self) -> Any:
        return Workspace, ()


class NativeBlocks(nn.Module):
    """Blocks of one stage in one call, for maps on a CPU.

    Args:
        blocks: Their constants.
        workspace: Shared by the stages of a network.
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
            ConfigError: If the map is not on a CPU, is of another type, or wants a gradient.
        """
        numbers.check(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if not len(x):
            return torch.empty_like(x)
        return numbers.computed(lambda number: self._run(x, position_bias, number), x.dtype, self.suits_float16)

    def suits_float16(self) -> bool:
        """Whether float16 has digits for all constants."""
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
        del kept  # until here the bias has to be in memory
        return out


def _bias(position_bias: Bias, number: torch.dtype) -> tuple[layouts.Bias, tuple[Tensor, ...]]:
    """As the kernels take it, and what has to stay in memory for it."""
    if isinstance(position_bias, FactoredBias):
        rows, columns = (part.detach().to(number).contiguous() for part in position_bias)
        return layouts.Bias(None, rows.data_ptr(), columns.data_ptr(), columns.shape[1]), (rows, columns)
    whole = position_bias.detach().to(number).contiguous()
    return layouts.Bias(whole.data_ptr(), None, None, 0), (whole,)
