"""The moving average of the weights, which validation and the result use."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def moving_average(decay: float) -> WeightAveraging:
    """Lightning's averaging of every entry of the state dict after each step, with a constant decay."""
    return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))


class SameStatistics(Callback):
    """All processes validate with the first one's running statistics, so that counts add up.

    Where batch normalisation is synchronised they are the same anyway. It comes after the
    averaging, which puts the average's statistics in place.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
