"""``transxnet.train``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transxnet.bounds import checked
from transxnet.console import progress_console
from transxnet.errors import ConfigError
from transxnet.extras import require
from transxnet.files import user_path
from transxnet.inference.precision import for_device
from transxnet.tasks import RecipeFile, default_recipe, experiment_class, open_recipe, recipe_class
from transxnet.text import counted
from transxnet.training.processes import is_rank_zero
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder, is_run

if TYPE_CHECKING:
    from rich.console import Console

    from transxnet.training.run import TrainingResult

AUTO = "auto"
Name = str | os.PathLike[str]


def train(
    data: Name | None = None,
    *,
    recipe: Name | None = None,
    task: str | None = None,
    out: Name | None = None,
    resume: Name | None = None,
    force: bool = False,
    profile: bool = False,
    data_changed: Literal["refuse", "accept"] = "refuse",
    console: Console | None = None,
    **settings: Any,
) -> TrainingResult | None:
    """Train a classifier, a detector or a segmenter, as ``transxnet train`` does.

    Args:
        data: An embedded data set, "digits" or "scenes", or a folder; by default the recipe's.
        recipe: A YAML file, or the name of a shipped recipe; by default "digits" for the digits and
            "pictures" for a folder of class folders.
        task: "classification", "detection" or "segmentation": by default the recipe's.
        out: The run folder; by default a new one under ``runs/``.
        resume: A run folder or one of its checkpoints; or "auto" for the run in ``out`` (or the newest
            unfinished one), from its newest undamaged checkpoint. "auto" starts a new run if there is none.
        force: Whether the run folder may hold other files.
        profile: Measure the parts of a step, and write a trace.
        data_changed: Whether to resume a run whose data changed ("accept"): images that were held out stay
            held out, and new ones are learned from.
        console: Prints progress; by default on standard output.
        **settings: Any setting of the recipe, such as ``model="transxnet_tiny"``, ``epochs=60`` or
            ``augmentation={"hflip": 0.0}``; they take precedence over the recipe's.

    Returns:
        The result, also of a resumed run that was finished already; None on all ranks but zero.

    Raises:
        ConfigError: If a setting is unknown, out of range or does not fit another, or differs from a
            resumed run's and decides its result.
        CheckpointError: If a checkpoint cannot be used.
        DataError: If the data cannot be used.
        MissingExtraError: If an extra is not installed that the task needs.
        Stopped: If a signal stopped the run, which can be resumed.
    """
    require("transxnet.train", "train")
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in settings.items()}
    if data is not None:
        given["data"] = os.fspath(data)
    job = find_job(recipe=recipe, task=task, data=given.get("data"), out=out, resume=resume)
    return job.run(given, force=force, profile=profile, data_changed=data_changed, console=console)


@dataclass(frozen=True)
class Job:
    """A run to start or to resume, of which all is known but the settings given beside the recipe.

    Attributes:
        file: The recipe: its task decides which settings there are.
        folder: The folder of the run to resume; None for a new run.
        out: Where a new run goes, if that was given.
        own_recipe: Whether the recipe was given, rather than chosen.
        resuming: Whether to resume the run in the folder, if there is one.
        checkpoint: The checkpoint to resume from, if one was given.
    """

    file: RecipeFile
    folder: RunFolder | None
    out: str | None
    own_recipe: bool
    resuming: bool
    checkpoint: Path | None

    @property
    def finished(self) -> bool:
        """Whether the run to resume has its result already."""
        return self.folder is not None and self.folder.summary.exists()

    def run(
        self,
        settings: Mapping[str, Any],
        *,
        force: bool = False,
        profile: bool = False,
        data_changed: Literal["refuse", "accept"] = "refuse",
        console: Console | None = None,
    ) -> TrainingResult | None:
        """Train; arguments, result and errors are those of :func:`train`."""
        checked("data_changed", data_changed, Literal["refuse", "accept"])
        console = console or progress_console(quiet=not is_rank_zero())
        recipe = self.recipe(settings).resolved()
        if recipe.task != "classification":
            require(f"training for {recipe.task}", "dense")
        folder = self.folder or self._new_folder(recipe, force)
        from transxnet.training.checkpointing import newest_whole
        from transxnet.training.run import TrainingResult, train  # imports Lightning

        if self.finished:
            result = TrainingResult.read(folder)
            headline = f": {result.headline}" if result.headline else ""
            console.print(f"{folder.path} is finished{headline}; {folder.summary} has all results", markup=False)
            return result if is_rank_zero() else None
        checkpoint = self.checkpoint or (newest_whole(folder.checkpoints, console) if self.resuming else None)
        start = f", resuming from {checkpoint.name}" if checkpoint else ""
        epochs = counted(recipe.total_epochs, "epoch")
        console.print(f"training {recipe.subject} on {recipe.data}, {epochs}{start}", markup=False)
        experiment = experiment_class(recipe.task)
        return train(
            experiment, recipe, folder, console, resume=checkpoint, profile=profile, data_changed=data_changed,
            evaluated=partial(for_device, precision="32" if recipe.precision == "32" else "auto"),
        )  # fmt: skip

    def recipe(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe with these settings.

        Raises:
            ConfigError: If a setting is unknown, out of range or does not fit another, or differs from a
                resumed run's and decides its result.
        """
        recipe = self.file.recipe(settings)
        if self.folder is None:
            return recipe
        started = (open_recipe(self.folder.config) if self.own_recipe else self.file).recipe()
        recipe = recipe.following(started)
        if changes := recipe.changes_from(started):
            listed = "; ".join(f"{name} is {old!r} there, {new!r} here" for name, (old, new) in changes.items())
            raise ConfigError(
                f"{self.folder.path} was started with other settings: {listed}. Leave them out, or start a new run"
            )
        return recipe

    def _new_folder(self, recipe: Recipe, force: bool) -> RunFolder:
        if not is_rank_zero():  # only rank zero writes
            return RunFolder(user_path(self.out or "runs"))
        inputs = [str(user_path(name)) for name in recipe.inputs]
        if self.own_recipe:
            inputs.append(str(self.file.path))
        return RunFolder.choose(self.out, recipe.data, inputs, force=force)


def find_job(
    *,
    recipe: Name | None = None,
    task: str | None = None,
    data: str | None = None,
    out: Name | None = None,
    resume: Name | None = None,
) -> Job:
    """Find the recipe and, to resume, the run; arguments and errors are those of :func:`train`."""
    given, out = (None if name is None else os.fspath(name) for name in (recipe, out))
    if task is not None:
        recipe_class(task)  # raises ConfigError if there is none
    checkpoint = None
    if resume is not None and resume != AUTO:
        path = user_path(resume)
        if path.is_dir():
            out = out or os.fspath(resume)
        else:
            from transxnet.training.checkpointing import resumable

            checkpoint = resumable(os.fspath(resume))
            out = out or str(checkpoint.absolute().parent.parent)
    folder = RunFolder(user_path(out)) if resume and out and is_run(user_path(out)) else None
    if folder is not None:
        file = open_recipe(given or folder.config, task)
    else:
        file = open_recipe(given or default_recipe(task, data or recipe_class("classification").data), task)
        if resume and not out:
            trained = data or file.settings.get("data") or recipe_class(file.task).data
            folder = RunFolder.unfinished(trained)
            file = open_recipe(folder.config, task) if folder and not given else file
    return Job(file, folder, out, given is not None, resume is not None, checkpoint)
