"""Depthwise convolutions of several sizes with the shift before them and GELU after them, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transxnet.kernels.cuda.depthwise import launch
from transxnet.kernels.cuda.depthwise_tiles import laid_out


def forward(
    x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor, channels: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """Compute all scales in one launch; arguments as for the operator.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    if len(set(channels[1:])) > 1:
        raise ValueError(f"all shares of the channels but the first have to be equal, not {list(channels)}")
    x = laid_out(x)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    several = len(sizes) > 1
    if not several:
        weight = weight[:, : channels[0]].T.unflatten(1, (sizes[0], sizes[0])).unsqueeze(0)  # (1, C, K, K)
    launch(x, weight, bias.unsqueeze(0), out, channels, sizes, edges=edges, packed=several, gelu=True)
    return out
