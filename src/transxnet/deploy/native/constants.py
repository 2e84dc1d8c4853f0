"""A fused block's constants as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.deploy.folding import Affine
from transxnet.deploy.native import layouts
from transxnet.deploy.native.convolution import KERNEL_SIZES
from transxnet.deploy.parts import FusedBlock, FusedIDConv, FusedMSFFN, FusedOSRA, FusedSTE, Pointwise, SplitScales
from transxnet.layers import DMixer

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
        block: The fused block.
    """

    def __init__(self, block: FusedBlock) -> None:
        super().__init__()
        self._constants: dict[str, Tensor] = {}
        self._plans: dict[torch.dtype, tuple[layouts.Block, dict[str, Tensor]]] = {}
        self._take(block)

    def _take(self, block: FusedBlock) -> None:
        mixer = cast(Any, block.token_mixer)
        ffn = cast(Any, block.ffn)
        idconv, osra, ste = mixer.local_operator, mixer.attention, mixer.enhancer
        affine, scales = ffn.multi_scale
        self._channels, self._local, self._heads = sum(mixer.channels), mixer.channels[0], osra.heads
        self._kernel_size, self._groups = idconv.kernel_size, len(idconv.bank)
        self._eps = (cast(Any, block.norm1).eps, cast(Any, block.norm2).eps)
        self._filter("position", block.dpe)
        self._keep("norm1", cast(Tensor, block.norm1.weight), cast(Tensor, block.norm1.bias))
        self._matrix("attention_squeeze", idconv.squeeze)
        self._matrix("attention_scores", idconv.scores)
        self._keep("bank", idconv.bank.transpose(1, 2))
        self._matrix("q", osra.q)
        self._matrix("kv", osra.kv)
        self._reduction = (0, 1)
        if not isinstance(osra.osr, nn.Identity):
            spread, _, after = osra.osr
            self._reduction = (spread.kernel_size[0], spread.stride[0])
            self._filter("reduction", spread)
            self._keep("reduced", after.scale, after.shift)
        self._filter("refinement", osra.lr)
        self._filter("neighbours", ste.local)
        self._matrix("squeeze", ste.squeeze[0])
        self._matrix("restore", ste.expand)
        self._keep("identity", ste.identity)
        self._keep("norm2", cast(Tensor, block.norm2.weight), cast(Tensor, block.norm2.bias))
        self._matrix("expand", ffn.expand[0])
        self._matrix("project", ffn.project)
        self._keep("before", affine.scale, affine.shift)
        self._scales = [
            (conv.weight.detach().float()[:, 0], cast(Tensor, conv.bias).detach().float())
            if isinstance(conv, nn.Conv2d)
            else (torch.ones(width, 1, 1), torch.zeros(width))  # all of it is in the affine map
            for conv, width in zip(scales.scales, scales.channels, strict=True)
        ]

    def _keep(self, name: str, *values: Tensor) -> None:
        for index, value in enumerate(values):
            self._constants[f"{name}.{index}"] = value.detach().float().contiguous().clone()

    def _filter(self, name: str, conv: Any) -> None:
        self._keep(name, conv.weight.flatten(1).T, conv.bias)  # (K * K, C)

    def _matrix(self, name: str, conv: Any) -> None:
        self._keep(name, packed(conv.weight.flatten(1)), conv.bias)

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

    @staticmethod
    def takes(block: FusedBlock) -> bool:
        """Whether all of a block is known here."""
        mixer, ffn = block.token_mixer, block.ffn
        if type(mixer) is not DMixer or type(ffn) is not FusedMSFFN:
            return False
        idconv, osra, ste = mixer.local_operator, mixer.attention, mixer.enhancer
        if type(idconv) is not FusedIDConv or type(osra) is not FusedOSRA or type(ste) is not FusedSTE:
            return False
        affine, scales = cast(Any, ffn.multi_scale)
        known = type(affine) is Affine and type(scales) is SplitScales
        osr = cast(Any, osra.osr)
        return (
            known
            and all(type(one) is nn.Identity or is_depthwise(one) for one in scales.scales)
            and idconv.kernel_size in KERNEL_SIZES
            and all(is_depthwise(conv) for conv in (block.dpe, osra.lr, ste.local))
            and (isinstance(osr, nn.Identity) or type(osr[-1]) is Affine)
            and all(type(part) is Pointwise for part in (osra.q, osra.kv, cast(Any, ste.squeeze)[0], ste.expand))
            and all(_is_group_norm(norm) for norm in (block.norm1, block.norm2))
        )


def is_depthwise(conv: Any) -> bool:
    """Whether it is a depthwise convolution with stride 1, padded to keep the map's size, that there is code for."""
    return (
        type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.kernel_size[0] in KERNEL_SIZES
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.padding_mode == "zeros"
    )


def _is_group_norm(norm: Any) -> bool:
    return type(norm) is nn.GroupNorm and norm.num_groups == 1 and norm.affine


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
