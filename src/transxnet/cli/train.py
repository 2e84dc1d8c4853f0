"""``transxnet train``."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from transxnet.api.training import Job, find_job
from transxnet.cli.command import first_options
from transxnet.cli.parsing import add_force
from transxnet.cli.recipe_options import RecipeParser, settings_of
from transxnet.console import SafeConsole, progress_console
from transxnet.errors import ConfigError, Stopped
from transxnet.tasks import TASKS, recipe_class
from transxnet.text import counted
from transxnet.training.processes import is_rank_zero
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder

if TYPE_CHECKING:
    from transxnet.training.run import TrainingResult

_ABOUT = """\
Train a classifier, a detector or a segmenter, as the recipe says. Without options: the nano
network on scikit-learn's handwritten digits, which takes minutes on two CPU cores. The run folder
then holds the weights, the metrics, config.yaml, samples.png and curves.png. Options take
precedence over the recipe, wherever --recipe stands."""
_EXAMPLES = """\
  transxnet train
  transxnet train --data photos --epochs 60
  transxnet train --recipe scenes/retinanet              boxes around digits, in minutes
  transxnet train --recipe coco/mask_rcnn_tiny --data coco --backbone-checkpoint transx-t.pth.tar
  transxnet train --data photos --model transxnet_tiny --checkpoint transx-t.pth.tar
  transxnet train --recipe runs/first/config.yaml --out runs/again --seed 1
  transxnet train --resume runs/first                    resume a run that was stopped
  torchrun --nproc-per-node 8 -m transxnet train --recipe imagenet/tiny --data imagenet \\
      --out runs/tiny --resume auto
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, train, and print where the results are."""
    job, options = _parsed(arguments)
    console = progress_console(quiet=not is_rank_zero())
    settings = settings_of(recipe_class(job.file.task), options)
    finished = job.finished
    try:
        result = job.run(
            settings,
            force=options.force,
            profile=options.profile,
            data_changed=options.data_changed,
            console=console,
        )
    except Stopped as stopped:
        return _report_stop(stopped, console)
    if result is not None and not finished:
        _report(result, console)
    return 0


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe of a command line."""
    job, options = _parsed(arguments)
    return job.recipe(settings_of(recipe_class(job.file.task), options))


def _parsed(arguments: Sequence[str]) -> tuple[Job, Any]:
    """Parse the command line in two steps: the recipe's task decides which options there are.

    Raises:
        ConfigError: If an option, the recipe or the run to resume cannot be used.
        CheckpointError: If the checkpoint to resume from cannot be used.
    """
    first, wants_help = first_options(arguments, "recipe", "task", "data", "out", "resume")
    if wants_help:
        task, settings = first.get("task", TASKS[0]), dict[str, Any]()
        with suppress(ConfigError):  # the defaults of a recipe, where one is found
            file = find_job(**{name: value for name, value in first.items() if name != "resume"}).file
            task, settings = file.task, dict(file.settings)
        _parser(recipe_class(task), settings).parse(arguments)  # prints, and exits
    job = find_job(**first)
    return job, _parser(recipe_class(job.file.task)).parse(arguments)


def _parser(recipe: type[Recipe], settings: Mapping[str, Any] | None = None) -> RecipeParser:
    parser = RecipeParser("train", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add("--recipe", type=str, help="a YAML file, or the name of a shipped recipe "
        '(default: "digits" for the digits, "pictures" for a folder)')  # fmt: skip
    add("--task", type=str, help=f"{', '.join(TASKS)} (default: the recipe's); with --help, lists this task's options")
    add("--out", type=str, help="the run folder (default: a new one under runs/)")
    add("--resume", type=str, help='resume a run: its folder, one of its checkpoints, or "auto" for the run in --out '
        "(or the newest unfinished one), from its newest undamaged checkpoint; auto starts a new run if there is "
        "none")  # fmt: skip
    add("--data_changed", type=str, default="refuse", help='"accept": resume even if the data changed since; images '
        "that were held out stay held out, and new ones are learned from (default: refuse)")  # fmt: skip
    add("--profile", action="store_true", help="measure the parts of a step, and write a trace of a few steps")
    add_force(parser)
    parser.add_recipe(recipe, settings)
    return parser


def _report(result: TrainingResult, console: SafeConsole) -> None:
    folder = RunFolder(result.folder)
    for name, reason in result.bad_images.items():
        console.print(f"left out {name}: {reason}", markup=False)
    skipped = f", {counted(result.skipped_steps, 'step')} skipped (not finite)" if result.skipped_steps else ""
    console.print(
        f"{result.headline}, after {result.seconds:.0f} s ({result.images_per_second:.0f} images/s, "
        f"{result.peak_memory_bytes / 2**30:.1f} GiB){skipped}"
    )
    for label, path in (("run folder", folder.path), ("samples", folder.samples), ("curves", folder.curves)):
        console.print(f"  {label:<11} {path}", markup=False)
    console.print(f"next: transxnet predict IMAGE --checkpoint {shlex.quote(str(folder.path))}", markup=False)


def _report_stop(stopped: Stopped, console: SafeConsole) -> int:
    """Print how to resume; returns the exit status."""
    kept = "everything is saved" if stopped.saved else "what came after the last checkpoint is lost"
    console.print(
        f"stopped by {stopped.signal.name} after step {stopped.step}, in epoch {stopped.epoch + 1}; {kept}. "
        f"Resume with: transxnet train --resume {shlex.quote(str(stopped.folder))}",
        markup=False,
    )
    return 130 if stopped.signal == signal.SIGINT else 0
