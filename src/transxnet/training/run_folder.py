"""The folder of a training run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transxnet.errors import ConfigError
from transxnet.files import open_regular, reason, remove_leftovers, user_path, write_text
from transxnet.output_paths import check_not_inputs, check_writable, output_folder
from transxnet.training.recipe import Recipe
from transxnet.training.recipe_file import read_recipe

_RUNS = Path("runs")
_CONFIG_START = b"task: "
_MAX_NAME = 100  # bytes of the data's name in a folder's


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @classmethod
    def choose(cls, path: str | None, data: str, inputs: Sequence[str] = (), *, force: bool = False) -> RunFolder:
        """The folder given, or one under ``runs/`` named after the time and the data; not made yet.

        Args:
            path: The folder, if one was given.
            data: The training data.
            inputs: Files and folders that are read, ``data`` among them.
            force: Whether the folder may hold other files; those with names of a run's files are replaced.

        Raises:
            ConfigError: If the folder holds a run or other files, or overlaps with an input.
        """
        target = user_path(path) if path is not None else _RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{short_name(data)}"
        run = cls(target)
        if is_run(target):
            raise ConfigError(
                f"{target} holds a run already; resume it with --resume auto, choose another folder, or remove it"
            )
        output_folder(target, inputs=[name for name in inputs if Path(name).is_dir()], force=force)
        check_not_inputs(run.files, inputs)
        return run

    @classmethod
    def unfinished(cls, data: str) -> RunFolder | None:
        """The newest folder under ``runs/`` for this data that holds a run without a result; None if there is none.

        Its name ends in the data's, and its recipe names the same folder.
        """
        open_ = [run for run in map(cls, _runs_of(data)) if not run.summary.exists()]
        return next((run for run in reversed(open_) if run.is_for(data)), None)

    @classmethod
    def newest(cls, data: str) -> RunFolder | None:
        """The newest folder under ``runs/`` for this data with the weights of a finished run; None if there is none."""
        finished = [run for run in map(cls, _runs_of(data)) if run.summary.exists() and run.weights.exists()]
        return finished[-1] if finished else None

    def is_for(self, data: str) -> bool:
        """Whether the run's recipe names this data, in any spelling; true if the recipe cannot be read."""
        try:
            own = read_recipe(self.config).get("data")
        except ConfigError:
            return True
        return not isinstance(own, str) or own == data or user_path(own).resolve() == user_path(data).resolve()

    @property
    def files(self) -> list[Path]:
        """Files of a run under fixed names, besides checkpoints and logs."""
        return [self.config, self.data, self.metrics, self.weights, self.samples, self.curves, self.summary]

    def begin(self, recipe: Recipe, data: dict[str, Any]) -> None:
        """Make the folder and write the recipe into it: from here on it holds a run.

        Args:
            recipe: The settings.
            data: What was found in the data set, for ``data.json``.

        Raises:
            ConfigError: If the folder cannot be made, or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {self.path}: {error.strerror}") from error
        for path in (self.path, self.checkpoints):  # those of a run that is resumed
            check_writable(path, path, advice="")
        remove_leftovers(self.path)
        write_text(self.config, recipe.to_yaml())
        write_text(self.data, json.dumps(data, indent=2) + "\n")

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")


def _runs_of(data: str) -> list[Path]:
    """The run folders under ``runs/`` that are named after this data, from the oldest."""
    name = re.compile(rf"\d{{8}}-\d{{6}}-{re.escape(short_name(data))}")
    found = sorted(folder for folder in _RUNS.iterdir() if name.fullmatch(folder.name)) if _RUNS.is_dir() else []
    return [folder for folder in found if is_run(folder)]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ours: its ``config.yaml`` begins as :meth:`Recipe.to_yaml` begins it.

    Raises:
        ConfigError: If this user may not read it.
    """
    try:
        with open_regular(folder / "config.yaml") as file:
            return file.read(len(_CONFIG_START)) == _CONFIG_START
    except PermissionError as error:
        raise ConfigError(f"{folder / 'config.yaml'} cannot be read: {reason(error)}") from error
    except OSError:
        return False


def short_name(data: str) -> str:
    """The last part of a data set's path as a part of a folder's name."""
    name = Path(data).name or Path(data).absolute().name or "data"
    plain = "".join(character if character.isprintable() and character != "/" else "_" for character in name)
    return plain.encode(errors="replace")[:_MAX_NAME].decode(errors="ignore")
