"""Facts about a network that is published: its weights, and the training run that they are from."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transxnet.checkpoints.reading import IN_FOLDERS
from transxnet.errors import CheckpointError, ConfigError
from transxnet.files import read_json, reading, user_path
from transxnet.inference.runtimes import is_exported
from transxnet.text import printable, unicode_text
from transxnet.training.recipe import RELEASED_CHECKPOINT
from transxnet.training.recipe_file import read_recipe
from transxnet.training.run_folder import RunFolder, is_run, short_name

_LAST = "last.ckpt"
_PATHS = ("data", "checkpoint", "backbone_checkpoint")  # settings of a recipe
# Its folders may have spaces and commas: all up to the last separator of a text is left out.
_ABSOLUTE = re.compile(r"(?<![\w.])(?:~\w*[/\\]|/|[A-Za-z]:[/\\])(?=[^\s,;:/\\])(?:[^\n]*[/\\])?")


@dataclass(frozen=True)
class RunFacts:
    """Weights, and what the run that they are from has written.

    Folders are left out of paths: names of users and machines are not published.

    Attributes:
        weights: A file or folder that is read as a checkpoint, or a URL.
        run: The run; None for weights of no run.
        recipe: Its settings; empty without a run.
        data: Description of its data set; empty if it is not known.
        result: Contents of its summary, if that is about these weights; empty otherwise.
        remarks: Differences from a finished run, one sentence each.
    """

    weights: str
    run: RunFolder | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Files and folders that are read."""
        return [self.weights] + ([str(self.run.path)] if self.run else [])

    @property
    def final(self) -> bool:
        """Whether the weights are those that the run ended with, which its samples show."""
        return self.run is not None and self.weights == str(self.run.weights)

    @property
    def averaged(self) -> bool:
        """Whether the run averages its weights."""
        return bool(self.recipe.get("ema_decay"))

    @property
    def data_name(self) -> str:
        """The last part of the data's path; empty if it is not known."""
        return unicode_text(printable(str(self.recipe.get("data") or "")))


def find_facts(source: str | os.PathLike[str]) -> RunFacts:
    """Find the weights of a run, or the run that a file of weights is from.

    Args:
        source: A run folder, one of its checkpoints, any other checkpoint, or a URL.

    Raises:
        ConfigError: If a file of the run cannot be read.
        CheckpointError: If the run has no weights, or the file is an exported one.
    """
    name = os.fspath(source)
    if "://" in name:
        return RunFacts(name)
    if is_exported(name):
        raise CheckpointError(f"{name} is an exported file; publish the checkpoint or run that it was exported from")
    path = user_path(name)
    if path.is_dir():
        if is_run(path):
            return _facts(RunFolder(path), _weights_of(RunFolder(path)))
        _check_weights(path)
        return RunFacts(str(path))
    for folder in (path.parent, path.parent.parent):
        run = RunFolder(folder)
        if path in (run.weights, run.checkpoints / path.name) and is_run(folder):
            return _facts(run, path)
    return RunFacts(str(path))


def _check_weights(folder: Path) -> None:
    """Raise CheckpointError for a folder without weights; runs in it are named."""
    with reading(folder, CheckpointError):
        if any((folder / name).exists() for name in IN_FOLDERS):
            return
        runs = sorted(str(path) for path in folder.iterdir() if path.is_dir() and is_run(path))
    hint = f"it holds runs such as {runs[-1]}" if runs else "give the folder of a run, or a checkpoint"
    raise CheckpointError(f"{folder} is no run and has no weights; {hint}")


def _weights_of(run: RunFolder) -> Path:
    last = run.checkpoints / _LAST
    if run.weights.exists():
        return run.weights
    if last.exists():
        return last
    raise CheckpointError(
        f"{run.path} has no weights yet: neither {run.weights.name} nor {last.relative_to(run.path)}; train it on with "
        f"`transxnet train --resume {run.path}`"
    )


def _facts(run: RunFolder, weights: Path) -> RunFacts:
    recipe = read_recipe(run.config)
    data = _read(run.data)
    summary = _read(run.summary)
    remarks = []
    final = weights == run.weights
    if not summary:
        saved = f"the weights of {weights.name}" if not final else "its weights"
        remarks.append(f"the training run had not finished: these are {saved}, whose scores were not measured")
    elif not final:
        remarks.append(f"the scores of {weights.name} were not measured: the run's are those of {run.weights.name}")
    root = str(recipe.get("data") or "")
    data = _without_folders(data or summary.get("data") or {}, _spellings(root) if os.sep in root else [])
    return RunFacts(str(weights), run, _shortened(recipe), data, summary if final else {}, tuple(remarks))


def _spellings(path: str) -> list[str]:
    """A path as the descriptions of data may spell it, the longest first."""
    with suppress(ConfigError):  # of a user who is unknown on this machine
        path_there = user_path(path)
        return sorted({path, str(path_there.absolute()), os.path.realpath(path_there)}, key=len, reverse=True)
    return [path]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    if not path.exists():
        return {}
    with reading(path, ConfigError, "remove it to publish without what it holds"):
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        return values


def _shortened(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the last part of each path."""
    short = dict(recipe) | {"wandb": None}
    for name in _PATHS:
        value = short.get(name)
        if isinstance(value, str) and "://" in value:
            short[name] = _public_address(value)
        elif isinstance(value, str) and value and value != RELEASED_CHECKPOINT:
            short[name] = short_name(value)
    return {name: value for name, value in short.items() if value is not None}


def _public_address(address: str) -> str:
    """An address without user, password and query, which may hold a key; of a local file only the last part."""
    scheme, _, rest = re.split(r"[?#]", address)[0].partition("://")
    if scheme.lower() == "file":
        return short_name(urllib.parse.unquote(rest))
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _without_folders(value: Any, roots: list[str]) -> Any:
    """Plain values in whose texts absolute paths have only their last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item, roots) for item in value]
    if not isinstance(value, str):
        return value
    for root in roots:
        whole = rf"(?<![\w.~-]){re.escape(root)}(?![\w.-])"
        value = re.sub(whole, short_name(root).replace("\\", r"\\"), value)
    return _ABSOLUTE.sub("", value)
