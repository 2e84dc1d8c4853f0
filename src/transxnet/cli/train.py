"""``transxnet train``."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile
from rich.console import Console

from transxnet.cli.command import CommandParser, made_recipe, recipe_option, take_options
from transxnet.cli.parsing import add_force
from transxnet.cli.streams import progress_console
from transxnet.data.sources import DIGITS, SCENES
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.tasks import TASKS, recipe_class, task_of
from transxnet.training.processes import is_first
from transxnet.training.recipe import Recipe, recipe_path
from transxnet.training.recipe_file import read_recipe, recipe_settings
from transxnet.training.run_folder import RunFolder, is_run

if TYPE_CHECKING:
    from transxnet.training.running import TrainingResult

_ABOUT = """\
Train a classifier, a detector or a segmenter; the recipe says which. Without options: the nano
network on scikit-learn's handwritten digits, which takes minutes on two CPU cores. The run folder
then holds the weights, the metrics, config.yaml, samples.png and curves.png. A recipe is read
first, and every option overrides it."""
_EXAMPLES = """\
  transxnet train
  transxnet train --data photos --epochs 60
  transxnet train --recipe scenes/retinanet              boxes around digits, in minutes
  transxnet train --recipe coco/mask_rcnn_tiny --data coco --backbone-checkpoint transx-t.pth.tar
  transxnet train --data photos --model transxnet_tiny --checkpoint transx-t.pth.tar
  transxnet train --recipe runs/first/config.yaml --out runs/again --seed 1
  transxnet train --resume runs/first                    go on with a run that was stopped
  torchrun --nproc-per-node 8 -m transxnet train --recipe imagenet/tiny --data imagenet \\
      --out runs/tiny --resume auto
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, train, and tell where the results are."""
    job = parse_job(arguments)
    recipe, folder = job.recipe, job.folder
    console = progress_console(quiet=not is_first())
    if folder.summary.exists() and job.resuming:
        console.print(f"{folder.path} is finished; its results are in {folder.summary}", markup=False)
        return 0
    from transxnet.training.checkpointing import newest_whole
    from transxnet.training.run import train  # imports Lightning
    from transxnet.training.signals import Stopped

    checkpoint = job.checkpoint or (newest_whole(folder.checkpoints, console) if job.resuming else None)
    start = f", going on from {checkpoint.name}" if checkpoint else ""
    console.print(
        f"training {recipe.subject} on {recipe.data}, {recipe.total_epochs} epochs{start}",
        markup=False,
    )
    try:
        result = train(recipe, folder, console, resume=checkpoint, profile=job.profile)
    except Stopped as stopped:
        kept = "everything is saved" if stopped.saved else "what came after the last checkpoint is lost"
        console.print(
            f"stopped by {stopped.signal.name} after step {stopped.step}, in epoch {stopped.epoch + 1}; {kept}. "
            f"Go on with: transxnet train --resume {shlex.quote(str(folder.path))}",
            markup=False,
        )
        return 130 if stopped.signal == signal.SIGINT else 0
    if result is not None:
        _tell(result, folder, console)
    return 0


def _tell(result: TrainingResult, folder: RunFolder, console: Console) -> None:
    for name, reason in result.bad.items():
        console.print(f"left out {name}: {reason}", markup=False)
    skipped = f", {result.skipped_steps} steps skipped (not finite)" if result.skipped_steps else ""
    console.print(
        f"{result.headline}, after {result.seconds:.0f} s ({result.images_per_second:.0f} images/s, "
        f"{result.peak_memory / 2**30:.1f} GiB){skipped}"
    )
    for label, path in (("run folder", folder.path), ("samples", folder.samples), ("curves", folder.curves)):
        console.print(f"  {label:<11} {path}", markup=False)
    console.print(f"next: transxnet predict IMAGE --checkpoint {shlex.quote(str(folder.path))}", markup=False)


@dataclass(frozen=True)
class Job:
    """What a command line asks for.

    Attributes:
        recipe: What to train.
        folder: Where the results go.
        resuming: Whether to go on with the run that the folder holds, if it does.
        checkpoint: The checkpoint to go on from, if it was named.
        profile: Whether to tell where the time goes.
    """

    recipe: Recipe
    folder: RunFolder
    resuming: bool
    checkpoint: Path | None
    profile: bool


def parse_job(arguments: Sequence[str]) -> Job:
    """Read the command line, the recipe, and the run folder if it is to go on.

    Raises:
        ConfigError: On a mistake, and if a setting that decides the result differs from the run's.
        CheckpointError: If the checkpoint that was named cannot be used.
    """
    # Our options with a value are few; the rest is the recipe's.
    given, rest = take_options(arguments, "--resume", "--out", "--recipe")
    resume, out = given.get("--resume"), given.get("--out")
    profile, force = "--profile" in rest, "--force" in rest
    checkpoint = None
    if resume and resume != "auto":
        path = user_path(resume)
        if path.is_dir():
            out = out or resume
        else:
            from transxnet.training.checkpointing import resumable

            checkpoint = resumable(resume)
            out = out or str(checkpoint.absolute().parent.parent)
    if resume and out and is_run(user_path(out)):
        folder = RunFolder(user_path(out))
        return Job(_recipe_of(folder, arguments), folder, True, checkpoint, profile)
    recipe = parse_recipe(arguments)
    if resume and not out and (unfinished := RunFolder.unfinished(recipe.data)):
        return Job(_recipe_of(unfinished, arguments), unfinished, True, None, profile)
    if is_first():
        inputs = [str(user_path(name)) for name in (*recipe.inputs, given.get("--recipe")) if name]
        folder = RunFolder.choose(out, recipe.data, inputs, force=force)
    else:  # only the first process writes
        folder = RunFolder(user_path(out or "runs"))
    return Job(recipe, folder, resume is not None, checkpoint, profile)


def _recipe_of(folder: RunFolder, arguments: Sequence[str]) -> Recipe:
    """The recipe to go on with: the run's own, of which only what changes no result may be changed."""
    before = parse_recipe(["--recipe", str(folder.config)])
    own = take_options(arguments, "--recipe")[0]
    recipe = parse_recipe(arguments if own else ["--recipe", str(folder.config), *arguments])
    if changes := recipe.changes_from(before):
        listed = "; ".join(f"{name} is {old!r} there, {new!r} here" for name, (old, new) in changes.items())
        raise ConfigError(
            f"{folder.path} was started with other settings: {listed}. Leave them out, or start a new run"
        )
    return recipe


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that a command line asks for."""
    path, content, task, rest = _recipe_first(arguments)
    recipe = recipe_class(task)
    parser = CommandParser("train", _ABOUT, _EXAMPLES)
    parser.add_argument("--recipe", action=ActionConfigFile, help="a YAML file, or the name of a shipped recipe "
                        '(default: "digits" for the digits, "pictures" for a folder)')  # fmt: skip
    parser.add_argument(
        "--task", type=str, help=f"{', '.join(TASKS)}: the recipe's; with --help, whose options to tell"
    )
    parser.add_argument("--out", type=str, help="the run folder (default: a new one under runs/)")
    parser.add_argument("--resume", type=str, help='go on with a run: its folder, one of its checkpoints, or "auto" '
                        "for the run in --out (or the newest unfinished one), from its newest whole checkpoint; "
                        "auto starts a new run if there is none")  # fmt: skip
    parser.add_argument("--profile", action="store_true",
                        help="tell where a step's time goes, and write a trace of a few steps")  # fmt: skip
    add_force(parser)
    parser.add_recipe(recipe)
    first = [recipe_option(recipe_settings(recipe, content, path))] if path else []
    options = parser.parse([*first, *rest])
    return made_recipe(recipe, options, path)


def _recipe_first(arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any], str, list[str]]:
    """The recipe's file (none if help is wanted), its settings, its task, and the options that override it."""
    given, rest = take_options(arguments, "--recipe", "--task")
    task = given.get("--task")
    if task is not None:
        recipe_class(task)  # raises ConfigError if there is none
    if "-h" in rest or "--help" in rest:
        return None, {}, task or "classification", rest
    data = take_options(rest, "--data")[0].get("--data", DIGITS)
    path = recipe_path(given.get("--recipe") or _default_recipe(task, data))
    content = read_recipe(path)
    theirs = task_of(content, path)
    if task not in (None, theirs):
        raise ConfigError(f"{path} is a recipe for {theirs}, not {task}; leave --task out, or choose another recipe")
    return path, content, theirs, rest


def _default_recipe(task: str | None, data: str) -> str:
    dense = {"detection": "retinanet", "segmentation": "semantic_fpn"}
    if data == SCENES:
        if task not in dense:
            raise ConfigError("the scenes are for --recipe scenes/retinanet, scenes/mask_rcnn or scenes/semantic_fpn")
        return f"scenes/{dense[task]}"
    if task in dense:
        raise ConfigError(f"for {task}, name a recipe: --recipe {'coco' if task == 'detection' else 'ade20k'}/"
                          f"{dense[task]}_tiny, or a file")  # fmt: skip
    if (user_path(data) / "annotations").is_dir():
        raise ConfigError(
            f"{data} has annotations: for boxes and masks, name a recipe such as --recipe coco/retinanet_tiny; for "
            "pixels, --recipe ade20k/semantic_fpn_tiny"
        )
    return DIGITS if data == DIGITS else "pictures"
