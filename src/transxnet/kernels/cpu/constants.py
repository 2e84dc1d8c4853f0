"""A fused block's constants as the kernels take them."""

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
_LAST = ("restore", "identity", "project")  # what branches end with
_RANGE = (2.0**-10, 2.0**10)  # of the largest constants that float16 is used for


class NativeBlock(nn.Module):
    """The constants of a block of DPE, D-Mixer and MS-FFN as the kernels take them.

    They are kept in float32 whatever the network is converted to, since maps between blocks may be stored as
    something that is not computed in; for kernels that compute in float16 there is a copy.

    Args:
        channels: C.
        local: Channels of IDConv, the first ones.
        heads: Attention heads.
        groups: Attention groups of IDConv.
        kernel_size: Of IDConv.
        reduction: Kernel size and stride of OSR; (0, 1) where keys are not reduced.
        eps: Of the two normalisations.
        constants: Weights (``name.0``) and biases (``name.1``) as block.h names and stores them, matrices as of
            :func:`packed`.
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

        It is made again where the constants have been copied.
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
            # Threads may come here at once: all of them take the one that is kept, for it holds the memory.
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
        """Whether float16 has digits for all constants: none is too large, and none vanishes that matters.

        What a branch ends with may be as small as it likes, for it is added to something.
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
    """A matrix (C', C) as products.h takes it: (C' / 32 or more, C, 32), float32."""
    rows, columns = weight.shape
    filled = F.pad(weight.detach().float(), (0, 0, 0, -rows % _PANEL))
    return filled.reshape(-1, _PANEL, columns).transpose(1, 2).contiguous()


def suits_float16(*values: Tensor, small: bool = False) -> bool:
    """Whether float16 has digits for constants: none is too large, and what is largest of each not too small.

    Args:
        values: The constants.
        small: Whether they may be small, since what comes of them is added to something.
    """
    largest = [float(value.abs().max()) for value in values]
    return all(one <= _RANGE[1] and (small or one == 0 or one >= _RANGE[0]) for one in largest)


def in_pairs(weight: Tensor) -> Tensor:
    """A packed matrix (P, C, 32) with two summands side by side: (P, C / 2 or more, 32, 2)."""
    panels, inner, columns = weight.shape
    return F.pad(weight, (0, 0, 0, inner % 2)).reshape(panels, -1, 2, columns).transpose(2, 3)


def _by_lanes(
    scales: Sequence[tuple[Tensor, Tensor]], scale: Tensor, shift: Tensor, lanes: int
) -> tuple[dict[str, Tensor], int]:
    """MS-FFN's convolutions as feed_forward.h takes them, some channels at a time, and half of the largest size.

    Where these have kernels of several sizes, the smaller ones are filled up with zeros.
    """
    largest = max(kernel.shape[-1] for kernel, _ in scales)
    more = -len(scale) % lanes
    whole = F.pad(torch.cat([_filled(kernel, largest) for kernel, _ in scales]), (0, 0, 0, 0, 0, more))
    sizes_of_all = torch.cat([torch.full((len(kernel),), kernel.shape[-1]) for kernel, _ in scales])
    sizes = [int(some.max()) for some in sizes_of_all.split(lanes)]
    kernels = [_filled(some, size).flatten(1).T.flatten() for some, size in zip(whole.split(lanes), sizes, strict=True)]
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


def _filled(kernels: Tensor, size: int) -> Tensor:
    """Kernels (C, K, K) with zeros around them, or without those that are around them: (C, size, size)."""
    more = (size - kernels.shape[-1]) // 2
    return F.pad(kernels, (more,) * 4)
