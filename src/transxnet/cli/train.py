"""``transxnet train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile
from rich.console import Console

from transxnet.cli.parsing import CommandParser
from transxnet.data.sources import DIGITS
from transxnet.data.transforms import Augmentation
from transxnet.training.recipe import Recipe, recipe_path
from transxnet.training.run_folder import RunFolder

_ABOUT = """\
Train a classifier. Without options: the nano network on scikit-learn's handwritten digits, which
takes minutes on two CPU cores. The run folder then holds the weights, the metrics, config.yaml,
samples.png and curves.png. A recipe is read first, and every option overrides it."""
_EXAMPLES = """\
  transxnet train
  transxnet train --data photos --epochs 60
  transxnet train --data photos --model transxnet_tiny --checkpoint transx-t.pth.tar
  transxnet train --recipe runs/first/config.yaml --out runs/again --seed 1
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, train, and tell where the results are."""
    recipe, out = parse_recipe(arguments)
    console = Console(highlight=False, soft_wrap=True)
    folder = RunFolder.choose(out, Path(recipe.data).name)
    console.print(f"training {recipe.model} on {recipe.data}, {recipe.total_epochs} epochs", markup=False)
    from transxnet.tasks.classification.train import train_classifier  # imports Lightning

    result = train_classifier(recipe, folder, console)
    judged = result.evaluation
    for name, reason in result.bad.items():
        console.print(f"left out {name}: {reason}", markup=False)
    right = round(judged.top1 * judged.images)
    top5 = f", top-5 {judged.top5:.2%}" if judged.top5 is not None else ""
    console.print(
        f"test accuracy {judged.top1:.2%} ({right} of {judged.images} held-out images){top5}, "
        f"after {result.seconds:.0f} s"
    )
    for label, path in (("run folder", folder.path), ("samples", folder.samples), ("curves", folder.curves)):
        console.print(f"  {label:<11} {path}", markup=False)
    console.print(f"next: transxnet predict IMAGE --checkpoint {folder.path}", markup=False)
    return 0


def parse_recipe(arguments: Sequence[str]) -> tuple[Recipe, str | None]:
    """The recipe that a command line asks for, and the run folder if it names one."""
    parser = CommandParser("train", _ABOUT, _EXAMPLES)
    parser.add_argument("--recipe", action=ActionConfigFile, help="a YAML file, or the name of a shipped recipe "
                        '(default: "digits" for the digits, "pictures" for a folder)')  # fmt: skip
    parser.add_argument("--out", type=str, help="the run folder (default: a new one under runs/)")
    parser.add_class_arguments(Recipe)
    settings: dict[str, Any] = parser.parse(_recipe_first(arguments)).as_dict()
    out = settings.pop("out")
    settings.pop("recipe")
    augmentation = Augmentation(**settings.pop("augmentation"))
    return Recipe(**settings, augmentation=augmentation), out


def _recipe_first(arguments: Sequence[str]) -> list[str]:
    """The recipe as a file, before the options that override it."""
    rest, recipe, data = [], None, DIGITS
    given = iter(arguments)
    for argument in given:
        name, _, value = argument.partition("=")
        if name == "--recipe":
            recipe = value or next(given, "")
        else:
            rest.append(argument)
        if name == "--data":
            data = value or next(given, "")
            rest += [] if value else [data]
    if "-h" in rest or "--help" in rest:
        return rest
    default = DIGITS if data == DIGITS else "pictures"
    return ["--recipe", str(recipe_path(default if recipe is None else recipe)), *rest]
