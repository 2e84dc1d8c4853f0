"""Callbacks of every run: addressed randomness, the table of metrics, the progress bar."""

from __future__ import annotations

import contextlib
import csv
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transxnet.data.randomness import seed_for
from transxnet.errors import CheckpointError
from transxnet.files import replacing
from transxnet.text import counted
from transxnet.training.nonfinite import FiniteSteps, may_wait
from transxnet.training.timing import StepTimes


class AddressedSteps(Callback):
    """The randomness of a batch (mixing, stochastic depth) depends on (seed, epoch, batch, rank) alone.

    Batches are counted over all processes, so that several processes draw the same numbers as one that
    accumulates as many batches.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = seed_for(self.seed, trainer.current_epoch, batch_idx * trainer.world_size + trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (timm's Mixup draws from it)
        torch.manual_seed(seed % 2**63)


class History(Callback):
    """The metrics of every epoch, for the curves and as a table in a file.

    Lightning's CSVLogger appends to its file, where a killed run can leave half a line, and knows nothing of resuming.

    Args:
        path: The table (CSV), rewritten after each epoch.

    Attributes:
        started: Whether training has begun, after everything was read from the checkpoint.
        stepped: Whether a step was completed since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[int, dict[str, float]] = {}
        self._before = 0.0
        self._started = time.monotonic()
        self.started = self.stepped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        self.started = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stepped = True

    @property
    def seconds(self) -> float:
        """Training time, that of earlier parts of a resumed run included."""
        return self._before + time.monotonic() - self._started

    @property
    def epochs(self) -> list[dict[str, float]]:
        """A row for each epoch."""
        return list(self._rows.values())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = {int(epoch): dict(row) for epoch, row in state_dict["rows"].items()}
        for row in self._rows.values():
            if not all(isinstance(name, str) and isinstance(value, int | float) for name, value in row.items()):
                raise CheckpointError("its metrics are not names and numbers")
        self._before = float(state_dict["seconds"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.startswith("step/")  # a step's, not the epoch's
        }
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self._rows[trainer.current_epoch] = {"epoch": trainer.current_epoch + 1, "lr": rate, **metrics}
        if trainer.is_global_zero:
            with contextlib.suppress(OSError):  # a full disk; the rows are in the checkpoint as well
                self._write()

    def _write(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in self.epochs for name in row)))
            writer.writeheader()
            # NaN is a metric that does not exist, such as the precision of a class without objects.
            writer.writerows(
                {name: "" if value != value else value for name, value in row.items()} for row in self.epochs
            )


class ProgressDisplay(Callback):
    """One bar for the whole run, with loss, score and the time left; a line an epoch where there is no terminal.

    Lightning's bars start anew with each epoch, and do not print lines into a file.

    Args:
        console: Prints the bar.
        metric: The validation metric to show, a share of 1.
        label: Its name for people.
        times: Measures the share of the time that training waits for images.
        finite: Counts the skipped steps.
    """

    def __init__(self, console: Console, metric: str, label: str, times: StepTimes, finite: FiniteSteps) -> None:
        self.console = console
        self.times = times
        self.finite = finite
        self.metric = metric
        self.label = label
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._loss = float("nan")
        self._score: float | None = None  # before the first epoch's end; NaN if the metric does not exist
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._first = trainer.current_epoch
        done = int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)
        self._task = self._progress.add_task(self._epoch(trainer), total=steps, completed=done, numbers=self._numbers())
        self._progress.start()
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs is not None and may_wait(trainer, batch_idx):
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
            self._loss = loss if self._loss != self._loss else 0.9 * self._loss + 0.1 * loss
        self._progress.update(self._task, advance=1, description=self._epoch(trainer), numbers=self._numbers())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score = float(trainer.callback_metrics.get(self.metric, float("nan")))
        if not self.console.is_terminal:
            done = trainer.current_epoch + 1
            left = (time.monotonic() - self._started) / (done - self._first) * ((trainer.max_epochs or done) - done)
            self.console.print(f"{self._epoch(trainer)}  {self._numbers()}  {left:.0f} s left")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.update(self._task, numbers=self._numbers())
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _numbers(self) -> str:
        shown = "–" if self._score != self._score else f"{100 * (self._score or 0):.1f} %"
        score = "" if self._score is None else f"  {self.label} {shown}"
        loss = "" if self._loss != self._loss else f"loss {self._loss:.3f}"
        data = f"  data {self.times.data_share:.0%}" if self.times.counts["step"] else ""
        skipped = f"  {counted(self.finite.skipped, 'step')} skipped" if self.finite.skipped else ""
        return f"{loss}{score}{data}{skipped}"
