"""The tasks' folders look alike, and each supplies a whole experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

import transxnet
from transxnet.errors import ConfigError
from transxnet.tasks import TASKS, experiment_class, recipe_class
from transxnet.training.experiment import Experiment

FILES = {"recipe.py", "experiment.py", "task.py", "evaluate.py", "predict.py", "sample_sheet.py"}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_s_folder_holds_every_part(task: str) -> None:
    assert {path.name for path in (Path(transxnet.__file__).parent / task).iterdir()} >= FILES
    experiment = experiment_class(task)
    assert issubclass(experiment, Experiment) and not experiment.__abstractmethods__
    assert recipe_class(task).task == task


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no task 'tracking'; there are classification, detection"):
        experiment_class("tracking")
