"""Stages of a fused network by the native kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from transxnet.kernels import Bias
from transxnet.kernels.cpu.blocks import NativeBlocks, Workspace
from transxnet.kernels.cpu.build import library
from transxnet.kernels.cpu.constants import NativeBlock, packed
from transxnet.kernels.cpu.depthwise import KERNEL_SIZES
from transxnet.kernels.cpu.patch_embed import NativeConv2d
from transxnet.layers import DMixer, PatchEmbed, PositionBias, Stage
from transxnet.layers.affine import Affine
from transxnet.layers.block import FusedBlock
from transxnet.layers.depthwise import FusedDepthwise
from transxnet.layers.folding import Pointwise
from transxnet.layers.idconv import FusedIDConv
from transxnet.layers.ms_ffn import FusedMSFFN, SplitScales
from transxnet.layers.osra import FusedOSRA
from transxnet.layers.ste import FusedSTE


def make_native(module: nn.Module) -> None:
    """Replace the fused blocks of every stage whose blocks are all known, and the convolutions of patch embeddings.

    Args:
        module: A fused network, with MS-FFN's scales apart (``split``) and 1x1 convolutions as ``linear``.

    Raises:
        ConfigError: If there are neither compiled kernels nor a C++ compiler.
    """
    workspace = Workspace()
    for child in module.modules():
        if isinstance(child, Stage) and all(_is_known(one) for one in child.blocks):
            library()  # to fail now rather than at the first image
            blocks = [_native_block(cast(FusedBlock, one)) for one in child.blocks]
            child.blocks = nn.ModuleList([NativeBlocks(blocks, workspace)])
            if isinstance(child.position_bias, PositionBias):
                child.position_bias = cast(Any, RememberedBias(child.position_bias))
        elif isinstance(child, PatchEmbed) and _is_folded(child) and NativeConv2d.takes(child.conv):
            library()
            child.conv = cast(Any, NativeConv2d(child.conv))


def _is_folded(embed: Any) -> bool:
    return isinstance(embed.norm, nn.Identity)


def _native_block(block: FusedBlock) -> NativeBlock:
    """The block's constants as the kernels take them."""
    mixer, ffn = cast(Any, block.token_mixer), cast(Any, block.ffn)
    idconv, osr = mixer.local_operator, mixer.attention.osr
    reduction = (0, 1) if isinstance(osr, nn.Identity) else (osr[0].kernel_size[0], osr[0].stride[0])
    scales = ffn.multi_scale[1]
    return NativeBlock(
        channels=sum(mixer.channels), local=mixer.channels[0], heads=mixer.attention.heads, groups=len(idconv.bank),
        kernel_size=idconv.kernel_size, reduction=reduction,
        eps=(cast(Any, block.norm1).eps, cast(Any, block.norm2).eps),
        constants={f"{name}.{i}": value for name, values in _constants(block) for i, value in enumerate(values)},
        scales=[
            (conv.weight[:, 0], cast(Tensor, conv.bias))
            if isinstance(conv, nn.Conv2d)
            else (torch.ones(width, 1, 1), torch.zeros(width))  # all of it is in the affine map
            for conv, width in zip(scales.scales, scales.channels, strict=True)
        ],
    )  # fmt: skip


def _constants(block: Any) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Weight and bias of a block's parts, by their names in block.h."""
    idconv, osra, ste = block.token_mixer.local_operator, block.token_mixer.attention, block.token_mixer.enhancer
    affine = block.ffn.multi_scale[0]
    filters = {"position": block.dpe, "refinement": osra.lr, "neighbours": ste.local}
    if not isinstance(osra.osr, nn.Identity):
        filters["reduction"], _, after = osra.osr
        yield "reduced", (after.scale, after.shift)
    for name, conv in filters.items():
        yield name, (conv.weight.flatten(1).T, conv.bias)  # (K * K, C)
    matrices = {
        "attention_squeeze": idconv.squeeze, "attention_scores": idconv.scores, "q": osra.q, "kv": osra.kv,
        "squeeze": ste.squeeze[0], "restore": ste.expand, "expand": block.ffn.expand[0], "project": block.ffn.project,
    }  # fmt: skip
    for name, conv in matrices.items():
        yield name, (packed(conv.weight.flatten(1)), conv.bias)
    yield "norm1", (block.norm1.weight, block.norm1.bias)
    yield "norm2", (block.norm2.weight, block.norm2.bias)
    yield "bank", (idconv.bank.transpose(1, 2),)
    yield "identity", (ste.identity,)
    yield "before", (affine.scale, affine.shift)


def _is_known(block: nn.Module) -> bool:
    """Whether the kernels can compute a block."""
    if type(block) is not FusedBlock:
        return False
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
        and all(type(one) is nn.Identity or _is_depthwise(one) for one in scales.scales)
        and idconv.kernel_size in KERNEL_SIZES
        and all(_is_depthwise(conv) for conv in (block.dpe, osra.lr, ste.local))
        and (isinstance(osr, nn.Identity) or type(osr[-1]) is Affine)
        and all(type(part) is Pointwise for part in (osra.q, osra.kv, cast(Any, ste.squeeze)[0], ste.expand))
        and all(_is_group_norm(norm) for norm in (block.norm1, block.norm2))
    )


def _is_depthwise(conv: Any) -> bool:
    """Whether the kernels can compute it: a depthwise convolution with stride 1 that keeps the map's size."""
    return (
        type(conv) in (nn.Conv2d, FusedDepthwise)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.kernel_size[0] in KERNEL_SIZES
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.padding_mode == "zeros"
    )


def _is_group_norm(norm: Any) -> bool:
    return type(norm) is nn.GroupNorm and norm.num_groups == 1 and norm.affine


class RememberedBias(nn.Module):
    """A stage's position bias, computed again only for a map of another size than the last one's.

    Args:
        bias: Computes it.
    """

    def __init__(self, bias: PositionBias) -> None:
        super().__init__()
        self.bias = bias
        self._last: tuple[tuple[int, int], Bias] | None = None

    def forward(self, x: Tensor) -> Bias:
        """Shapes: (B, C, H, W) to (1, heads, N, M), or its factors where the whole would be large."""
        grid = (x.shape[-2], x.shape[-1])
        last = self._last  # read once: another thread may replace it
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
