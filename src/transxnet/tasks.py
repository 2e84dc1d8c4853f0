"""One room a task: what surrounds a network when it learns, is judged and answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transxnet.bounds import checked
from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe

if TYPE_CHECKING:
    from transxnet.training.running import Plan

_RECIPES = {
    "classification": "ClassificationRecipe",
    "detection": "DetectionRecipe",
    "segmentation": "SegmentationRecipe",
}
TASKS = tuple(_RECIPES)


def recipe_class(task: str) -> type[Recipe]:
    """The recipes of a task; raises ConfigError if there is none of that name."""
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    found: type[Recipe] = getattr(importlib.import_module(f"transxnet.{task}.recipe"), _RECIPES[task])
    return found


def task_of(content: Mapping[str, Any], path: Path) -> str:
    """The task of a recipe's file; raises ConfigError if there is none of that name."""
    try:
        task: str = checked("task", content.get("task", TASKS[0]), Literal[*TASKS])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return task


def plan_function(task: str) -> Callable[..., Plan]:
    """What plans a run by a recipe of the task; its libraries are imported now."""
    found: Callable[..., Plan] = importlib.import_module(f"transxnet.{task}.train").plan
    return found
