"""Depthwise convolutions with fixed weights between an affine map and GELU, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transxnet.kernels.cuda.depthwise import launch
from transxnet.kernels.cuda.depthwise_tiles import laid_out


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, channels: Sequence[int],
    sizes: Sequence[int], gelu: bool,
) -> Tensor:  # fmt: skip
    """Convolve all shares in one launch; arguments as for the operator.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    if len(set(channels[1:])) > 1:
        raise ValueError(f"all shares of the channels but the first are of one width, not {list(channels)}")
    x = laid_out(x)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    affine = None if scale is None or shift is None else (scale, shift)
    launch(x, weight, bias[None], out, channels, sizes, affine=affine, packed=True, gelu=gelu)
    return out
