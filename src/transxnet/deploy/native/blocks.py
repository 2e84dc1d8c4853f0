"""A fused block on kernels of our own."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from transxnet.deploy.native import layouts, numbers
from transxnet.deploy.native.build import library
from transxnet.deploy.native.constants import NativeBlock
from transxnet.deploy.native.patch_embed import NativeConv2d
from transxnet.deploy.parts import FusedBlock
from transxnet.layers.position_bias import Bias, FactoredBias, PositionBias
from transxnet.model import PatchEmbed, Stage


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
        blocks: The fused blocks, with MS-FFN's scales apart (``split``) and 1x1 convolutions as ``linear``.
        workspace: Shared by the stages of a network.
    """

    def __init__(self, blocks: Sequence[FusedBlock], workspace: Workspace) -> None:
        super().__init__()
        self.workspace = workspace
        self.blocks = nn.ModuleList(NativeBlock(block) for block in blocks)
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


def make_native(module: nn.Module) -> None:
    """Put native blocks in the place of the fused ones of every stage below a module whose blocks are all known, and
    native convolutions in that of the patch embeddings'.

    Raises:
        ConfigError: If there is no compiler for the kernels.
    """
    workspace = Workspace()
    for child in module.modules():
        if isinstance(child, Stage) and all(type(one) is FusedBlock and NativeBlock.takes(one) for one in child.blocks):
            library()  # to fail now rather than at the first image
            child.blocks = nn.ModuleList([NativeBlocks([cast(FusedBlock, one) for one in child.blocks], workspace)])
            if isinstance(child.position_bias, PositionBias):
                child.position_bias = cast(Any, RememberedBias(child.position_bias))
        elif isinstance(child, PatchEmbed) and _is_folded(child) and NativeConv2d.takes(child.conv):
            library()
            child.conv = cast(Any, NativeConv2d(child.conv))


def _is_folded(embed: Any) -> bool:
    return isinstance(embed.norm, nn.Identity)


class RememberedBias(nn.Module):
    """A stage's position bias, computed anew only for a map of another size than the last one's.

    Args:
        bias: What computes it.
    """

    def __init__(self, bias: PositionBias) -> None:
        super().__init__()
        self.bias = bias
        self._last: tuple[tuple[int, int], Bias] | None = None

    def forward(self, x: Tensor) -> Bias:
        """Shapes: (B, C, H, W) to (1, heads, N, M), or its factors where the whole would be large."""
        grid = (x.shape[-2], x.shape[-1])
        last = self._last  # read once: another thread may put another in its place
        if last is None or last[0] != grid:
            with torch.no_grad():
                last = self._last = (grid, self.bias(x))
        return last[1]

    def set_grid(self, grid: tuple[int, int]) -> None:
        """As :meth:`PositionBias.set_grid`."""
        self._last = None
        self.bias.set_grid(grid)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._last = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}
