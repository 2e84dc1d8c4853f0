"""The moving average of the weights, used in validation and as the result."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """Lightning's averaging of every entry of the state dict after each step, with a constant decay.

    Args:
        decay: Share of the previous average in the next one.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # The network is moved to its device later; the average must not stay on the CPU.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class SameStatistics(Callback):
    """All processes validate with rank zero's running statistics, so that counts add up.

    Where batch normalisation is synchronised they are the same anyway. It runs after the averaging,
    which loads the average's statistics.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
