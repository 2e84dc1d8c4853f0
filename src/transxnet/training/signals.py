"""Stopping at a whole step when the machine is about to be taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from transxnet.training.checkpointing import Checkpointer, agreed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818 (a wish, not an error)
    """Training was asked to stop.

    Attributes:
        signal: Who asked.
        epoch: Whole epochs that were done.
        step: Steps that were done.
        saved: Whether all of them are in a checkpoint; otherwise the last checkpoint is older.
    """

    def __init__(self, signal_: signal.Signals, epoch: int, step: int, saved: bool) -> None:
        super().__init__(f"stopped by {signal_.name}")
        self.signal, self.epoch, self.step, self.saved = signal_, epoch, step, saved


class StopOnSignal(Checkpoint):
    """On Ctrl-C, SIGTERM or SLURM's SIGUSR1: finish the step, save, stop; a second Ctrl-C stops at once.

    A SLURM job that is stopped by SIGUSR1 is put back into the queue. During validation the signal
    waits for the end of the epoch.

    Args:
        checkpointer: Saves.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.received: signal.Signals | None = None
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        # Lightning has registered its own by now, and puts the old ones back in the end.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        can_save = self.checkpointer.can_save(trainer, batch_idx)
        if can_save and agreed(trainer, self.received is not None, batch_idx):
            saved = self.checkpointer.save(trainer) is not None
            self._stop(trainer, trainer.current_epoch, saved)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not last and agreed(trainer, self.received is not None, -1):  # it has just been saved
            self._stop(trainer, trainer.current_epoch + 1, self.checkpointer.files.failure is None)

    def _receive(self, number: int, frame: object) -> None:
        if self.received is not None and number == signal.SIGINT and self._trainer is not None:
            # Not KeyboardInterrupt, for which Lightning ends the process without a word.
            raise Stopped(signal.SIGINT, self._trainer.current_epoch, self._trainer.global_step, saved=False)
        self.received = signal.Signals(number)

    def _stop(self, trainer: Trainer, epoch: int, saved: bool) -> None:
        received = self.received or signal.SIGTERM  # another process was told
        if received == signal.SIGUSR1 and trainer.is_global_zero:
            _requeue()
        raise Stopped(received, epoch, trainer.global_step, saved)


def _requeue() -> None:
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")
    if name:
        subprocess.run(["scontrol", "requeue", name], check=False)
