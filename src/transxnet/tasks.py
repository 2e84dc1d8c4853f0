"""The tasks by name, and the recipe files that choose one."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transxnet.bounds import checked, checked_settings, kinds_of
from transxnet.data.coco.layout import contents_of, unread_annotations
from transxnet.data.sources import DIGITS, SCENES
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.training.recipe import Recipe, recipe_path
from transxnet.training.recipe_file import read_recipe, recipe_settings

if TYPE_CHECKING:
    from transxnet.training.run import AnyExperiment

TASKS = ("classification", "detection", "segmentation")
"""Each is a folder of this package with a ``recipe.py`` and an ``experiment.py``."""


def recipe_class(task: str) -> type[Recipe]:
    """The recipes of a task; raises ConfigError if there is none of that name."""
    found: type[Recipe] = getattr(_module(task, "recipe"), f"{task.title()}Recipe")
    return found


def experiment_class(task: str) -> type[AnyExperiment]:
    """A task's part of a training run, with the libraries it needs; raises ConfigError as :func:`recipe_class`."""
    found: type[AnyExperiment] = getattr(_module(task, "experiment"), f"{task.title()}Experiment")
    return found


def _module(task: str, name: str) -> Any:
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    return importlib.import_module(f"transxnet.{task}.{name}")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe's file that was read.

    Attributes:
        path: The file.
        task: Its task.
        settings: Its settings, checked; what it leaves out has the task's default.
    """

    path: Path
    task: str
    settings: Mapping[str, Any]

    def recipe(self, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe, with settings that take precedence over the file's.

        Args:
            overrides: Name to value; mappings for nested settings override only what they hold.

        Raises:
            ConfigError: If a setting is unknown, out of range, or does not fit another.
        """
        cls = recipe_class(self.task)
        settings = dict(self.settings)
        for name, value in checked_settings(cls, overrides or {}).items():
            nested = dataclasses.is_dataclass(kinds_of(cls)[name]) and isinstance(value, Mapping)
            settings[name] = {**settings.get(name, {}), **value} if nested else value
        try:
            for name, kind in kinds_of(cls).items():
                if dataclasses.is_dataclass(kind) and isinstance(settings.get(name), Mapping):
                    settings[name] = kind(**settings[name])  # type: ignore[operator]
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{error} (recipe: {self.path})") from error


def open_recipe(name: str | Path, task: str | None = None) -> RecipeFile:
    """Read a recipe.

    Args:
        name: A file, or the name of a shipped recipe.
        task: The task that it must be for, if that matters.

    Raises:
        ConfigError: If there is none, it cannot be read, is for another task, or a setting is unknown
            or out of range; file and setting are named.
    """
    path = recipe_path(str(name))
    content = read_recipe(path)
    try:
        found: str = checked("task", content.get("task", TASKS[0]), Literal[*TASKS])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if task not in (None, found):
        raise ConfigError(f"{path} is a recipe for {found}, not for {task}; choose another recipe")
    return RecipeFile(path, found, recipe_settings(recipe_class(found), content, path))


def default_recipe(task: str | None, data: str) -> str:
    """Name of the recipe for a data set where none is given.

    Args:
        task: The task, if it is given.
        data: "digits", "scenes" or a folder.

    Raises:
        ConfigError: If a recipe must be named.
    """
    dense = {"detection": "retinanet", "segmentation": "semantic_fpn"}
    if data == SCENES:
        if task not in dense:
            raise ConfigError("the scenes are for --recipe scenes/retinanet, scenes/mask_rcnn or scenes/semantic_fpn")
        return f"scenes/{dense[task]}"
    if task in dense:
        folder = "coco" if task == "detection" else "ade20k"
        raise ConfigError(f"for {task}, name a recipe: --recipe {folder}/{dense[task]}_tiny, or a file")
    if data != DIGITS and (contents := contents_of(data)):
        if other := unread_annotations(user_path(data)):
            raise ConfigError(f"{data} has annotated objects: {other}")
        advice = {
            "objects": "for boxes and masks, name a recipe such as --recipe coco/retinanet_tiny",
            "pixels": "for pixels, --recipe ade20k/semantic_fpn_tiny",
        }
        raise ConfigError(f"{data} has annotations: {'; '.join(advice[each] for each in contents)}")
    return DIGITS if data == DIGITS else "pictures"
