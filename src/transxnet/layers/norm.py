"""Normalisation, with what training on small batches and recomputation need of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


@register_notrace_module
class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that can be trained on a single value per channel.

    IDConv normalises a 1x1 map, so a batch of one image has a single value per channel, whose
    variance says nothing; PyTorch refuses it. There, and only there, the running statistics are
    used and left as they are, as in evaluation. Synchronised over several processes, the same
    layer sees all of their images, and this case does not arise.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to the same."""
        batch, _, height, width = input.shape
        if self.training and self.track_running_stats and batch * height * width == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


def group_norm(channels: int) -> nn.GroupNorm:
    """The paper's layer normalisation: over all channels and places of an image."""
    return nn.GroupNorm(1, channels)


@contextmanager
def frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the batch without counting it.

    A recomputed forward pass (gradient checkpointing) sees the same batch twice; its statistics
    must enter the running ones once.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
