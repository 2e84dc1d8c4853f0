"""Constants of fused blocks in the kernels' layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.kernels.cpu import layouts

_PANEL = 32  # columns of a packed matrix's panel, as in products.h
_MATRICES = ("attention_squeeze", "attention_scores", "q", "kv", "squeeze", "restore", "expand", "project")
_SCALES = ("sizes", "starts", "kernels", "biases", "before_scale", "before_shift")
_LAST = ("restore", "identity", "project")  # the last constants of branches
_RANGE = (2.0**-10, 2.0**10)  # of the largest constants, for computing in float16


class NativeBlock(nn.Module):
    """The constants of a block of DPE, D-Mixer and MS-FFN in the kernels' layout.

    They stay in float32 when the network is converted, since maps between blocks may be stored in another type than
    they are computed in; kernels that compute in float16 use a copy.

    Args:
        channels: C.
        local: Number of IDConv's channels, the first ones.
        heads: Attention heads.
        groups: Attention groups of IDConv.
        kernel_size: Kernel size of IDConv.
        reduction: Kernel size and stride of OSR; (0, 1) without reduction.
        eps: Epsilon of the two normalisations.
        constants: Weights (``name.0``) and biases (``name.1``) with the names and layouts of block.h, matrices as
            from :func:`packed`.
        scales: Kernels (C', K, K) and biases (C') of MS-FFN's convolutions.
    """

    def __init__(
        self, *, channels: int, local: int, heads: int, groups: int, kernel_size: int, reduction: tuple[int, int],
        eps: tuple[float, float], constants: Mapping[str, Tensor], scales: Sequence[tuple[Tensor, Tensor]],
    ) -> None:  # fmt: skip
        super().__init__()
        self._channels, self._local, self._heads, self._groups = channels, local, heads, groups
        self._kernel_size, self._reduction, self._eps = kernel_size, reduction, eps
        self._constants = {name: value.detach().float().contiguous().clone() for name, value in constants.items()}
        self._scales = [(kernel.detach().float(), bias.detach().float()) for kernel, bias in scales]
        self._plans: dict[torch.dtype, tuple[layouts.Block, dict[str, Tensor]]] = {}

    def laid_out(self, number: torch.dtype) -> layouts.Block:
        """The structure of the constants' addresses, for kernels that compute in float32 or in float16.

        It is rebuilt for copies of the block.
        """
        if number not in self._plans:
            float16 = number == torch.float16
            constants, halo = _by_lanes(
                self._scales, self._constants["before.0"], self._constants["before.1"], 16 << float16
            )
            for name, value in self._constants.items():
                if float16 and name.endswith(".0") and name[:-2] in _MATRICES:
                    value = in_pairs(value)
                constants[name] = value
            constants = {
                name: value.to(number).contiguous() if value.is_floating_point() else value
                for name, value in constants.items()
            }
            # Several threads may get here: all use the plan that is stored, which owns the memory.
            self._plans.setdefault(number, (self._lay_out(constants, halo), constants))
        return self._plans[number][0]

    def _lay_out(self, constants: dict[str, Tensor], halo: int) -> layouts.Block:
        at = {name: value.data_ptr() for name, value in constants.items()}
        sizes = {name: round(len(value) ** 0.5) for name, value in constants.items()}
        filters = ("position", "refinement", "neighbours")
        size, stride = self._reduction
        pointers = [at.get(name) for name in ("reduction.0", "reduction.1", "reduced.0", "reduced.1")]

        def matrix(name: str) -> layouts.Matrix:
            inner, columns = self._constants[f"{name}.0"].shape[1], len(constants[f"{name}.1"])
            return layouts.Matrix(at[f"{name}.0"], at[f"{name}.1"], inner, columns)

        return layouts.Block(
            channels=self._channels, local=self._local, heads=self._heads, groups=self._groups,
            kernel_size=self._kernel_size,
            norm1=layouts.Norm(at["norm1.0"], at["norm1.1"], self._eps[0]),
            norm2=layouts.Norm(at["norm2.0"], at["norm2.1"], self._eps[1]),
            bank=at["bank.0"], identity=at["identity.0"],
            reduction=layouts.Reduction(size, stride, *pointers),
            scales=layouts.Scales(len(constants["sizes"]), halo, *(at[name] for name in _SCALES)),
            **{name: layouts.Filter(at[f"{name}.0"], at[f"{name}.1"], sizes[f"{name}.0"]) for name in filters},
            **{name: matrix(name) for name in _MATRICES},
        )  # fmt: skip

    def suits_float16(self) -> bool:
        """Whether float16 can represent all constants: none is too large, and none that matters vanishes.

        The last constants of a branch may be small, since its result is added to a sum.
        """
        scales = {f"scale{i}.{j}": part for i, pair in enumerate(self._scales) for j, part in enumerate(pair)}
        return all(
            suits_float16(value, small=(name.endswith(".1") and name != "before.1") or name.startswith(_LAST))
            for name, value in {**self._constants, **scales}.items()
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}


def packed(weight: Tensor) -> Tensor:
    """A matrix (C', C) in the layout of products.h: (ceil(C' / 32), C, 32), float32."""
    rows, columns = weight.shape
    filled = F.pad(weight.detach().float(), (0, 0, 0, -rows % _PANEL))
    return filled.reshape(-1, _PANEL, columns).transpose(1, 2).contiguous()


def suits_float16(*values: Tensor, small: bool = False) -> bool:
    """Whether float16 can represent constants: none is too large, and the largest of each not too small.

    Args:
        values: The constants.
        small: Whether they may be small, since their result is added to a sum.
    """
    largest = [float(value.abs().max()) for value in values]
    return all(one <= _RANGE[1] and (small or one == 0 or one >= _RANGE[0]) for one in largest)


def in_pairs(weight: Tensor) -> Tensor:
    """A packed matrix (P, C, 32) with pairs of summands: (P, ceil(C / 2), 32, 2)."""
    panels, inner, columns = weight.shape
    return F.pad(weight, (0, 0, 0, inner % 2)).reshape(panels, -1, 2, columns).transpose(2, 3)


def _by_lanes(
    scales: Sequence[tuple[Tensor, Tensor]], scale: Tensor, shift: Tensor, lanes: int
) -> tuple[dict[str, Tensor], int]:
    """MS-FFN's convolutions in the layout of feed_forward.h, in blocks of channels, and half of the largest size.

    In blocks with several kernel sizes, the smaller kernels are padded with zeros.
    """
    largest = max(kernel.shape[-1] for kernel, _ in scales)
    more = -len(scale) % lanes
    whole = F.pad(torch.cat([_padded(kernel, largest) for kernel, _ in scales]), (0, 0, 0, 0, 0, more))
    sizes_of_all = torch.cat([torch.full((len(kernel),), kernel.shape[-1]) for kernel, _ in scales])
    sizes = [int(some.max()) for some in sizes_of_all.split(lanes)]
    kernels = [_padded(some, size).flatten(1).T.flatten() for some, size in zip(whole.split(lanes), sizes, strict=True)]
    starts = torch.tensor([0, *(len(kernel) for kernel in kernels)]).cumsum(0)
    constants = {
        "sizes": torch.tensor(sizes),
        "starts": starts,
        "kernels": torch.cat(kernels),
        "biases": F.pad(torch.cat([bias for _, bias in scales]), (0, more)),
        "before_scale": F.pad(scale, (0, more)),
        "before_shift": F.pad(shift, (0, more)),
    }
    return constants, largest // 2


def _padded(kernels: Tensor, size: int) -> Tensor:
    """Kernels (C, K, K) padded with zeros or cropped to (C, size, size)."""
    more = (size - kernels.shape[-1]) // 2
    return F.pad(kernels, (more,) * 4)
