"""Networks in their fastest form on a device: fused and in bfloat16 on a GPU, as they are on a CPU."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import nn

from transxnet.bounds import checked, shown
from transxnet.data.transfers import compute_type
from transxnet.errors import ConfigError
from transxnet.inference.fuse import fuse as fused
from transxnet.layers import Block, is_fused

Network = TypeVar("Network", bound=nn.Module)

Precision = Literal["auto", "32", "bf16"]
"""Type that a network computes in: ``32`` (float32), ``bf16`` (bfloat16); ``auto``, bfloat16 on a GPU that has it."""


Fusion = bool | Literal["fold"] | None
"""Whether a network is fused: ``True``, on a CPU with native kernels; ``"fold"``, without them; ``None``, on a GPU."""


def for_device(network: Network, device: str, *, fuse: Fusion = None, precision: Precision = "auto") -> Network:
    """The network on a device, for evaluation and prediction.

    Args:
        network: A network of this package, which is moved and converted if it is not fused.
        device: PyTorch's name of a device.
        fuse: Fold what can be folded and, on a CPU and unless it is "fold", use native kernels; by default on a GPU
            only.
        precision: Type of weights and maps.

    Raises:
        ConfigError: If the precision or the fusion is unknown, or the network cannot be fused.
    """
    checked("precision", precision, Precision)
    if not isinstance(fuse, bool | None) and fuse != "fold":
        raise ConfigError(f'fuse must be true, false, null or "fold", not {shown(fuse)}')
    kind = torch.device(device).type
    if kind == "cpu":
        network = fused(network, native=fuse != "fold") if fuse else network
    else:
        network = network.to(device)
        if _fuses(network) if fuse is None and kind == "cuda" else fuse:
            network = fused(network, channels_last=True)
    return network.to(torch.bfloat16) if chooses_bfloat16(precision, device) else network


def chooses_bfloat16(precision: Precision, device: str) -> bool:
    """Whether a network is to compute in bfloat16 on a device."""
    if precision != "auto":
        return precision == "bf16"
    if torch.device(device).type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def precision_of(network: Any) -> str:
    """Type that a network computes in, such as "float32"; of an exported one, as its file gives it."""
    exported = getattr(network, "precision", None)
    if isinstance(exported, str):
        return exported
    return str(compute_type(network)).removeprefix("torch.")


def _fuses(network: nn.Module) -> bool:
    return not is_fused(network) and any(isinstance(module, Block) for module in network.modules())
