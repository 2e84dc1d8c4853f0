"""A run of any task: its parts put together, and what it cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import nn

from transxnet import kernels
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.data.loader import ResumableLoader
from transxnet.errors import CheckpointError
from transxnet.files import reason, remove_leftovers
from transxnet.model import Block, Stage
from transxnet.training.averaging import MovingAverage, SameStatistics
from transxnet.training.callbacks import AddressedSteps, History, ProgressDisplay
from transxnet.training.checkpointing import Checkpointer, WholeFiles, step_of
from transxnet.training.engine import make_trainer
from transxnet.training.memory import keep_freed_memory
from transxnet.training.nonfinite import FiniteSteps
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder
from transxnet.training.signals import StopOnSignal, Stopped
from transxnet.training.task import Task
from transxnet.training.timing import Profile, StepTimes


@dataclass(frozen=True)
class Run:
    """A run's parts.

    Attributes:
        recipe: What to do.
        trainer: Lightning's engine.
        task: Loss and metrics around the network.
        history: The metrics of every epoch.
        finite: Skips and counts steps without a finite gradient.
        times: Where the time goes.
    """

    recipe: Recipe
    trainer: Trainer
    task: Task
    history: History
    finite: FiniteSteps
    times: StepTimes

    @property
    def place(self) -> dict[str, Any]:
        """What a loader has to know of this process."""
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "workers": self.recipe.workers}

    @property
    def device(self) -> str:
        """PyTorch's name of this process's device."""
        return str(self.trainer.strategy.root_device)


@dataclass(frozen=True)
class Plan:
    """What a task makes of a recipe.

    Attributes:
        task: Loss and metrics around the network.
        images: Number of training images.
        names: The name of the training image at a place.
        loaders: The loaders of the training and of the validation images for a run.
        judge: Judges the trained network and writes the pictures of a run into its folder; returns
            how good the network is, in words and as numbers.
    """

    task: Task
    images: int
    names: Callable[[int], str]
    loaders: Callable[[Run], tuple[ResumableLoader, ResumableLoader]]
    judge: Callable[[Run, RunFolder], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        headline: How good the final (averaged) weights are on the validation images, in words.
        seconds: From the first step to the last, of all the parts of a resumed run.
        images_per_second: Training images through the training steps, waiting for images included.
        peak_memory: In bytes: of the GPU, or of the process.
        skipped_steps: Steps without a finite gradient.
        bad: Name and reason of each image that could not be used.
    """

    headline: str
    seconds: float
    images_per_second: float
    peak_memory: int
    skipped_steps: int
    bad: dict[str, str]


def prepare(
    recipe: Recipe,
    task: Task,
    names: Callable[[int], str],
    folder: RunFolder,
    console: Console,
    *,
    profile: bool = False,
    resume: Path | None = None,
) -> Run:
    """The trainer around a task, and what watches it.

    Args:
        recipe: What to do.
        task: Loss and metrics around the network.
        names: The name of the training image at a place.
        folder: Where the results go.
        console: Where progress is shown.
        profile: Tell where the time goes, and write a trace.
        resume: The checkpoint to go on from.
    """
    _set_up_blocks(task.model, recipe)
    task.report = lambda line: console.print(line, markup=False)
    if not torch.cuda.is_available():
        keep_freed_memory()
    times = StepTimes(exact=profile)
    finite = FiniteSteps(recipe.max_skipped, lambda places: [names(i) for i in places], folder.path / "not_finite.txt")
    history, files = History(folder.metrics), WholeFiles()
    checkpointer = Checkpointer(
        folder.checkpoints,
        files,
        console,
        minutes=recipe.checkpoint_minutes,
        keep=recipe.keep_checkpoints,
        metric=task.metric,
    )
    callbacks: list[Callback] = [
        AddressedSteps(recipe.seed),
        *([MovingAverage(recipe.ema_decay)] if recipe.ema_decay else []),
        SameStatistics(),
        finite,
        history,
        ProgressDisplay(console, task.metric, task.metric_label, times, finite),
        *([Profile(times, folder.path / "profile", console)] if profile else []),
        checkpointer,
        StopOnSignal(checkpointer),
    ]
    trainer = make_trainer(recipe, folder, callbacks, files, times, step_of(resume))
    task.trainer = trainer  # knows the number of processes
    return Run(recipe, trainer, task, history, finite, times)


def kernel_policy(recipe: Recipe, device: str) -> kernels.Policy:
    """Who computes the operators in a run: see :data:`transxnet.kernels.Policy`.

    Args:
        recipe: Its ``native_kernels: false`` leaves them to PyTorch.
        device: PyTorch's name of the device.
    """
    if not recipe.native_kernels or recipe.compile or torch.device(device).type != "cpu":
        return "reference"
    policy = kernels.current_policy()
    if policy != "auto":
        return policy
    # Without a compiler PyTorch's kernels give the same, more slowly.
    return "native" if kernels.native_available() else "reference"


def fit(
    run: Run, train: ResumableLoader, validation: ResumableLoader, folder: RunFolder, console: Console,
    resume: Path | None,
) -> bool:  # fmt: skip
    """Train; returns whether this process has the result to finish.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
        Stopped: If a signal asked to stop.
    """
    parameters = sum(parameter.numel() for parameter in run.task.model.parameters())
    console.print(
        f"{run.task.images_per_step} images a step, learning rate up to {run.task.scaled(run.recipe.lr):.3g}, "
        f"{parameters / 1e6:.2f} M parameters"
    )
    if run.trainer.is_global_zero:
        folder.make()
        remove_leftovers(folder.path)
        folder.write_config(run.recipe)  # from here on the folder holds a run
    with _resuming(run, resume):
        run.trainer.fit(run.task, train, validation, ckpt_path=resume, weights_only=True)
    if run.trainer.is_global_zero and run.trainer.global_step and resume and not run.times.counts["step"]:
        # Only the end was missing: the averaged weights are in the checkpoint.
        run.task.model.load_state_dict(read_checkpoint(resume).state_dict)
    return bool(run.trainer.is_global_zero)


@contextmanager
def _resuming(run: Run, resume: Path | None) -> Iterator[None]:
    """What a checkpoint that does not fit makes Lightning raise before the first step, as one line.

    Raises:
        CheckpointError: Instead of what is raised while the checkpoint is read.
    """
    try:
        yield
    except (Stopped, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if resume is None or run.history.started:
            raise
        raise CheckpointError(f"training cannot be resumed from {resume}: {reason(error)}") from error


def finish(run: Run, folder: RunFolder, headline: str, scores: dict[str, Any], images: int) -> TrainingResult:
    """Write the summary, and return the result.

    Args:
        run: The run.
        folder: Where the results go.
        headline: How good the network is, in words.
        scores: The same as numbers.
        images: Number of training images.
    """
    recipe, times = run.recipe, run.times
    in_step = times.seconds["data"] + times.seconds["step"]
    seen = recipe.batch_size * run.trainer.world_size * times.counts["step"]
    result = TrainingResult(
        headline,
        run.history.seconds,
        seen / in_step if in_step else 0.0,
        peak_memory(),
        run.finite.skipped,
        run.task.bad.reasons,
    )
    folder.write_summary(
        {
            **scores,
            "parameters": sum(parameter.numel() for parameter in run.task.model.parameters()),
            "training_images": images,
            "epochs": recipe.total_epochs,
            "steps": run.trainer.global_step,
            "images_per_step": run.task.images_per_step,
            "learning_rate": run.task.scaled(recipe.lr),
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "waiting_for_data": times.data_share,
            "peak_memory_bytes": result.peak_memory,
            "skipped_steps": result.skipped_steps,
            "kernels": run.task.kernels,
            "bad_images": result.bad,
        }
    )
    return result


def peak_memory() -> int:
    """The most memory that was used, in bytes: of the GPU, or of the process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _set_up_blocks(model: nn.Module, recipe: Recipe) -> None:
    blocks: Sequence[nn.Module] = [module for module in model.modules() if isinstance(module, Block | Stage)]
    for module in blocks:
        if isinstance(module, Stage):
            module.grad_checkpointing = recipe.grad_checkpointing
        elif recipe.compile:
            module.compile(dynamic=False)
