"""Normalisation, with what training on small batches and recomputation need of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch.distributed as dist
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transxnet import kernels
from transxnet.kernels import GELUOrder, batch_norm


@register_notrace_module
class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that can be trained on a single value per channel.

    IDConv normalises a 1x1 map, so a batch of one image has a single value per channel, whose
    variance says nothing; PyTorch refuses it. There, and only there, the running statistics are
    used and left as they are, as in evaluation. Synchronised over several processes, the same
    layer sees all of their images, and this case does not arise.

    Attributes:
        group: Name of the process group over which statistics are synchronised, set by
            :func:`synchronise_statistics`; empty for those of this process alone.
    """

    group = ""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to the same."""
        batch, _, height, width = input.shape
        if self.training and self.track_running_stats and batch * height * width == 1 and not self.group:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return self.learn(input) if self.learns(input) else super().forward(input)

    def learns(self, x: Tensor) -> bool:
        """Whether a map is normalised by its own statistics, which go into the running ones."""
        learns = self.training and self.track_running_stats and self.affine and self.momentum is not None
        return learns and x.ndim == 4 and (bool(self.group) or x.numel() > x.shape[1])

    def learn(self, x: Tensor, gelu: GELUOrder = "none") -> Tensor:
        """Normalise a map that the layer :meth:`learns` from, with GELU before or after it.

        Shapes: (B, C, H, W) to the same.
        """
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        return batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, momentum=self.momentum, eps=self.eps,
            gelu=gelu, group=self.group,
        )  # fmt: skip


def synchronise_statistics(network: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Let batch normalisations learn from the batches of all processes, as from one batch.

    PyTorch's own two-dimensional ones are replaced by this package's first; other kinds keep to their process. With a
    single process nothing is synchronised.

    Args:
        network: The network.
        group: The processes; all by default.
    """
    restore_batch_norms(network)
    alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1
    processes = group or (None if alone else dist.group.WORLD)
    name = "" if alone or processes is None else processes.group_name
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.group = name


def restore_batch_norms(network: nn.Module) -> None:
    """Replace PyTorch's own batch normalisations, which ``timm.utils.unfreeze`` leaves, by this package's.

    Parameters and statistics stay the same objects.
    """
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                ours = BatchNorm2d.__new__(BatchNorm2d)
                ours.__dict__ = norm.__dict__
                setattr(parent, name, ours)


@register_notrace_module
class GroupNorm(nn.GroupNorm):
    """The paper's layer normalisation: over all channels and positions of an image."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to the same."""
        if self.num_groups == 1 and self.affine:
            return kernels.group_norm(input, self.weight, self.bias, self.eps)
        return super().forward(input)


def group_norm(channels: int) -> GroupNorm:
    """A :class:`GroupNorm` of one group."""
    return GroupNorm(1, channels)


class RecomputedStatistics:
    """Lets a module be run twice on one batch, and counts the batch in its running statistics once.

    Gradient checkpointing recomputes a block's forward pass in the backward pass. The recomputation
    starts from copies of the running statistics as they were before the first pass, so that it
    does the same arithmetic, and leaves the real ones alone.

    Args:
        module: The module to run twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
        self._before: list[dict[str, Tensor]] = []

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Around the first pass."""
        self._before = [_copies(dict(norm.named_buffers())) for norm in self._norms]
        yield

    @contextmanager
    def recomputation(self) -> Iterator[None]:
        """Around each further pass."""
        real = [dict(norm.named_buffers()) for norm in self._norms]
        self._put([_copies(buffers) for buffers in self._before])
        try:
            yield
        finally:
            self._put(real)

    def _put(self, statistics: Sequence[Mapping[str, Tensor]]) -> None:
        for norm, buffers in zip(self._norms, statistics, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def _copies(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in buffers.items()}
