"""One room a task: what surrounds a network when it learns, is judged and answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe


class _Entry(NamedTuple):
    module: str
    recipe: str
    train: str


_TASKS = {
    "classification": _Entry("classification", "ClassificationRecipe", "train_classifier"),
    "detection": _Entry("detection", "DetectionRecipe", "train_detector"),
    "segmentation": _Entry("segmentation", "SegmentationRecipe", "train_segmenter"),
}
TASKS = tuple(_TASKS)


def recipe_class(task: str) -> type[Recipe]:
    """The recipes of a task; raises ConfigError if there is none of that name."""
    if task not in _TASKS:
        raise ConfigError(f"there is no task {task!r}; there are {', '.join(_TASKS)}")
    entry = _TASKS[task]
    found: type[Recipe] = getattr(importlib.import_module(f"{__name__}.{entry.module}.recipe"), entry.recipe)
    return found


def training_function(task: str) -> Callable[..., Any]:
    """What trains by a recipe of the task; its libraries are imported now."""
    entry = _TASKS[task]
    found: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{entry.module}.train"), entry.train)
    return found
