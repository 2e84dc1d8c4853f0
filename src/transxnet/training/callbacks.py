"""What happens around the training steps of any task."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transxnet.data.randomness import seed_for


class AddressedSteps(Callback):
    """The randomness of a batch (mixing, stochastic depth) depends on (seed, epoch, batch, rank) alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = seed_for(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (timm's Mixup draws from it)
        torch.manual_seed(seed % 2**63)


class History(Callback):
    """The metrics of every epoch, for the curves."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})


class ProgressDisplay(Callback):
    """One bar for the whole run, with loss, accuracy and the time left; lines where there is no terminal.

    Args:
        console: Where to print.
        metric: The validation metric to show, a share of 1.
        label: What to call it.
    """

    def __init__(self, console: Console, metric: str, label: str) -> None:
        self.console = console
        self.metric = metric
        self.label = label
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._loss = float("nan")
        self._score = float("nan")
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._task = self._progress.add_task(self._epoch(trainer), total=steps, figures=self._figures())
        self._progress.start()
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs is not None:
            loss = float(outputs["loss"])
            self._loss = loss if self._loss != self._loss else 0.9 * self._loss + 0.1 * loss
        self._progress.update(self._task, advance=1, description=self._epoch(trainer), figures=self._figures())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score = float(trainer.callback_metrics.get(self.metric, float("nan")))
        if not self.console.is_terminal:
            done = trainer.current_epoch + 1
            left = (time.monotonic() - self._started) / done * ((trainer.max_epochs or done) - done)
            self.console.print(f"{self._epoch(trainer)}  {self._figures()}  {left:.0f} s left")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.update(self._task, figures=self._figures())
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _figures(self) -> str:
        score = "" if self._score != self._score else f"  {self.label} {100 * self._score:.1f} %"
        loss = "" if self._loss != self._loss else f"loss {self._loss:.3f}"
        return f"{loss}{score}"
