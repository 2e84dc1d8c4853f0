"""Memory traffic and launches of the package's operators on a CUDA device, kernel by kernel.

``traffic_of`` returns for an operator's call the kernels' labels, the bytes that each reads and writes, and how many
are launched. An operator without an entry reads its inputs and writes its outputs in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

Row = tuple[str, int, int]
"""Label, bytes, launches."""

TRAFFIC: dict[str, Callable[..., list[Row]]] = {}


def traffic_of(name: str, args: Any, out: Any) -> list[Row]:
    """The kernels of a call of ``torch.ops.transxnet``'s operator ``name``."""
    if name in TRAFFIC:
        return TRAFFIC[name](out, *args)
    return [(f"our {name}", size(args, out), 1)]


def size(*given: Any) -> int:
    """Bytes of all tensors in some arguments; broadcast axes count once."""
    total = 0
    for x in tree_leaves(given):
        if isinstance(x, Tensor):
            count = x.element_size()
            for length, step in zip(x.shape, x.stride(), strict=True):
                count *= 1 if step == 0 else length
            total += count
    return total
