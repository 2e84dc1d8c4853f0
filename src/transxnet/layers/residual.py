"""A branch beside the identity."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def residual(x: Tensor, branch: nn.Module) -> Tensor:
    """X + branch(x); a branch that has a ``beside_identity`` computes it in its own way.

    Shapes: (B, C, H, W) to the same.
    """
    own: Any = getattr(branch, "beside_identity", None)
    hooked = branch._forward_hooks or branch._forward_pre_hooks
    return x + branch(x) if own is None or hooked else own(x)  # type: ignore[no-any-return]
