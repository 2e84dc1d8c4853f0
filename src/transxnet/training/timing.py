"""Time of each part of a training step."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from rich.table import Table

from transxnet.text import counted

# The last words of Lightning's names of its actions.
_PHASES = {
    "train_dataloader_next": "data",
    "batch_to_device": "copy to the device",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "save_checkpoint": "checkpoint",
    "val_next": "validation data",
    "run_training_batch": "step",
}
_ROWS = ("data", "copy to the device", "forward", "backward", "optimizer", "checkpoint")
_COLLECTIVES = ("c10d::", "nccl", "gloo:")


class StepTimes(Profiler):
    """Adds up the time of each part of the training steps.

    Lightning's SimpleProfiler keeps every duration, for all actions, and has no share of waiting for data.

    Args:
        exact: Synchronise the device at the end of each part; otherwise a GPU's work is counted where
            the host waits for it.

    Attributes:
        seconds: Time of each part.
        counts: Number of times it was done.
    """

    def __init__(self, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact and torch.cuda.is_available()
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self._started: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._started[action_name] = self._now()

    def stop(self, action_name: str) -> None:
        # Lightning's names look like "[Strategy]DDPStrategy.backward".
        phase = _PHASES.get(action_name.rsplit(".", 1)[-1])
        started = self._started.pop(action_name, None)
        if phase is None or started is None:
            return
        if phase == "optimizer" and not action_name.startswith("[LightningModule]"):
            return
        if phase in ("forward", "backward", "copy to the device") and not action_name.startswith("[Strategy]"):
            return
        self.seconds[phase] += self._now() - started
        self.counts[phase] += 1

    def table(self) -> dict[str, float]:
        """Seconds of each part for one batch, the optimizer's without forward and backward."""
        batches = max(self.counts["data"], 1)
        seconds = dict(self.seconds)
        # Lightning runs forward and backward inside the optimizer's step, except while gradients add up.
        inside = self.seconds["step"] - self.seconds["forward"] - self.seconds["backward"]
        seconds["optimizer"] = max(inside, 0.0)
        return {row: seconds.get(row, 0.0) / batches for row in _ROWS}

    @property
    def data_share(self) -> float:
        """Share of the time that training waited for images."""
        return self.seconds["data"] / max(self.seconds["data"] + self.seconds["step"], 1e-9)

    def images_per_second(self, batch_size: int) -> float:
        """Training images through the steps, waiting for images included; 0 before the first step.

        Args:
            batch_size: Images of all devices in a batch.
        """
        seconds = self.seconds["data"] + self.seconds["step"]
        return batch_size * self.counts["step"] / seconds if seconds else 0.0

    def _now(self) -> float:
        if self.exact:
            torch.cuda.synchronize()
        return time.perf_counter()


class Profile(Callback):
    """Prints the time of each part, and writes a trace of a few steps for chrome://tracing or Perfetto.

    Lightning's PyTorchProfiler would take the place of :class:`StepTimes`, and traces without its table.

    Args:
        times: Measures the parts.
        folder: Folder of the trace.
        console: Prints the table.
        wait: Steps before the trace begins.
        traced: Steps in the trace.
    """

    def __init__(self, times: StepTimes, folder: Path, console: Console, *, wait: int = 3, traced: int = 3) -> None:
        self.times = times
        self.folder = folder
        self.console = console
        self.wait = wait
        self.traced = traced
        self._batches = 0
        self._exchange = 0.0
        self._tracer: torch.profiler.profile | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._batches == self.wait:
            self._tracer = torch.profiler.profile()
            self._tracer.start()
        self._batches += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._tracer is not None and self._batches == self.wait + self.traced:
            self._end_trace(trainer)
            # The times so far include warm-up and tracing.
            self.times.seconds.clear()
            self.times.counts.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_trace(trainer)
        if trainer.is_global_zero:
            self.console.print(self._table())
            self.console.print(f"trace of {counted(self.traced, 'step')}: {self.folder}", markup=False)

    def _end_trace(self, trainer: Trainer) -> None:
        if self._tracer is None:
            return
        self._tracer.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tracer.export_chrome_trace(str(self.folder / f"trace-rank{trainer.global_rank}.json"))
        spent = sum(
            max(event.self_cpu_time_total, event.self_device_time_total)
            for event in self._tracer.key_averages()
            if event.key.lower().startswith(_COLLECTIVES)
        )
        self._exchange = spent / 1e6 / self.traced
        self._tracer = None

    def _table(self) -> Table:
        seconds = self.times.table()
        seconds["communication (inside backward)"] = self._exchange
        whole = sum(seconds[row] for row in _ROWS) or 1.0
        table = Table(title=f"a batch's time, mean of {self.times.counts['data']}")
        for column in ("part", "ms", "share"):
            table.add_column(column, justify="left" if column == "part" else "right")
        for row, spent in seconds.items():
            table.add_row(row, f"{1000 * spent:.1f}", f"{spent / whole:.1%}")
        return table
