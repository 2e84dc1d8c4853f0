"""A stage of figure 3, and recomputation of its blocks in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transxnet.kernels import Bias, Policy, current_policy, use
from transxnet.layers.block import FusedBlock
from transxnet.layers.folding import Folding
from transxnet.layers.norm import RecomputedStatistics
from transxnet.layers.position_bias import PositionBias


class Stage(nn.Module):
    """Blocks that work at one resolution and share a position bias.

    Args:
        downsample: Leads from the stage before to this one's channels and resolution.
        position_bias: Makes the bias (1, heads, N, M) for a map (B, C, H, W); None where no block has a use for it.
        blocks: The stage's blocks.

    Attributes:
        grad_checkpointing: Recompute the blocks in the backward pass.
        fused: The blocks are in their form for inference, made by :func:`transxnet.fuse`.
    """

    def __init__(self, downsample: nn.Module, position_bias: PositionBias | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.position_bias = position_bias
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to (B, C', H', W')."""
        x = self.downsample(x)
        position_bias = None if self.position_bias is None else self.position_bias(x)  # once for all blocks
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = _recomputed(block, x, position_bias)
            else:
                x = block(x, position_bias)
        return x

    def folded(self, folding: Folding) -> Self:
        """As of :mod:`transxnet.layers.folding`."""
        folding.next_stage()
        folding.inside(self)
        self.grad_checkpointing = False
        self.fused = True
        return self


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]  # the compiler cannot follow the exchange of statistics
def _recomputed(block: nn.Module, x: Tensor, position_bias: Bias | None) -> Tensor:
    contexts = partial(_checkpoint_contexts, block)
    return checkpoint(block, x, position_bias, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


def _checkpoint_contexts(block: nn.Module) -> tuple[Any, Any]:
    statistics = RecomputedStatistics(block)
    return statistics.first_pass(), _recomputation(statistics, current_policy())


@contextmanager
def _recomputation(statistics: RecomputedStatistics, policy: Policy) -> Iterator[None]:
    """Around a recomputation, which has to do the same arithmetic, whatever the policy is by then."""
    with use(policy), statistics.recomputation():
        yield


def is_fused(network: nn.Module) -> bool:
    """Whether a network is in its form for inference, which cannot be trained, saved, exported or fused again."""
    modules = network.modules()
    return any(isinstance(one, FusedBlock) or (isinstance(one, Stage) and one.fused) for one in modules)
