"""Stopping after a whole step on a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from transxnet.errors import Stopped
from transxnet.training.checkpointing import Checkpointer, agreed

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has no SIGUSR1


class StopOnSignal(Checkpoint):
    """On Ctrl-C, SIGTERM or SLURM's SIGUSR1: finish the step, save, stop; a second Ctrl-C stops at once.

    A SLURM job that is stopped by SIGUSR1 is requeued. During validation the signal waits for the end of
    the epoch. Lightning's own handlers stop without saving (SIGTERM), or save in the middle of a step (SLURM).

    Args:
        checkpointer: Saves the checkpoint.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.received: signal.Signals | None = None
        self._trainer: Trainer | None = None
        self._folder = checkpointer.folder.parent

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        # Lightning has registered its own by now, and restores the old ones at the end.
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
            # Not KeyboardInterrupt, on which Lightning ends the process silently.
            raise Stopped(signal.SIGINT, self._trainer.current_epoch, self._trainer.global_step, False, self._folder)
        self.received = signal.Signals(number)

    def _stop(self, trainer: Trainer, epoch: int, saved: bool) -> None:
        received = self.received or signal.SIGTERM  # another process received it
        if received.name == "SIGUSR1" and trainer.is_global_zero:
            _requeue()
        raise Stopped(received, epoch, trainer.global_step, saved, self._folder)


class _InterruptedError(BaseException):
    """Ctrl-C, under a name that Lightning does not know."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C before the first step raises KeyboardInterrupt, on which Lightning would end the process silently."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: object) -> None:
        raise _InterruptedError

    before = signal.signal(signal.SIGINT, receive)
    try:
        yield
    except _InterruptedError:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _requeue() -> None:
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")
    if name:
        subprocess.run(["scontrol", "requeue", name], check=False)
