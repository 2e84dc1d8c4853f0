"""Everything that watches a run: Lightning callbacks, the profiler, and the writer of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Callback
from rich.console import Console

from transxnet.training.averaging import MovingAverage, SameStatistics
from transxnet.training.callbacks import AddressedSteps, History, ProgressDisplay
from transxnet.training.checkpointing import Checkpointer, WholeFiles
from transxnet.training.nonfinite import FiniteSteps
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder
from transxnet.training.signals import StopOnSignal
from transxnet.training.task import Task
from transxnet.training.timing import Profile, StepTimes


@dataclass(frozen=True)
class Monitors:
    """The monitors of a run.

    Attributes:
        callbacks: All callbacks, in Lightning's order of calls.
        history: Metrics of every epoch.
        finite: Skips and counts steps whose gradient is not finite.
        times: Time of each part of the steps.
        files: Writes checkpoints.
    """

    callbacks: list[Callback]
    history: History
    finite: FiniteSteps
    times: StepTimes
    files: WholeFiles

    @classmethod
    def create(
        cls,
        recipe: Recipe,
        task: Task,
        image_name: Callable[[int], str],
        folder: RunFolder,
        console: Console,
        *,
        profile: bool = False,
    ) -> Monitors:
        """The monitors that a recipe asks for.

        Args:
            recipe: The settings.
            task: Names the validation metric.
            image_name: From the index of a training image to its name.
            folder: The run folder.
            console: Prints progress.
            profile: Measure the parts of a step, and write a trace.
        """
        times, files = StepTimes(exact=profile), WholeFiles()
        history = History(folder.metrics)
        finite = FiniteSteps(
            recipe.max_skipped, lambda indices: [image_name(i) for i in indices], folder.path / "not_finite.txt"
        )
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
        return cls(callbacks, history, finite, times, files)
