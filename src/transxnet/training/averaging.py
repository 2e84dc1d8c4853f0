"""The moving average of the weights, used in validation and as the result."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(WeightAveraging):
    """Lightning's averaging of the state dict after each step, with a constant decay, in a few operations.

    Lightning's own update goes over all tensors one by one, averages the counters of batches, which are integers, and
    waits for the device. Here the counters are the current network's.

    Args:
        decay: Share of the previous average in the next one.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._updates = 0  # Lightning's count is on the device, which would have to be waited for
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # The network is moved to its device later; the average must not stay on the CPU.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._pairs = _by_type(self._average_model.module, pl_module)
        self._updates = int(self._average_model.n_averaged)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._latest_update_step:
            assert self._average_model is not None
            self._update(self._average_model)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, model: AveragedModel) -> None:
        for averages, current in self._pairs:
            if not self._updates or not averages[0].is_floating_point():
                torch._foreach_copy_(averages, current)
            else:
                torch._foreach_lerp_(averages, current, 1 - self.decay)
        self._updates += 1
        model.n_averaged += 1


def _by_type(average: nn.Module, current: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The parameters and buffers of both modules, those of one type together."""
    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for mean, value in zip(_tensors(average), _tensors(current), strict=True):
        means, values = pairs.setdefault(mean.dtype, ([], []))
        means.append(mean)
        values.append(value)
    return list(pairs.values())


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())


class SameStatistics(Callback):
    """All processes validate with rank zero's running statistics, so that counts add up.

    Where batch normalisation is synchronised they are the same anyway. It runs after the averaging,
    which loads the average's statistics.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
