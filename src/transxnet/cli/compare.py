"""``transxnet compare``."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from transxnet.ablation.rows import BASES, ROWS
from transxnet.bounds import Seed, SeedCount, checked
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.cli.parsing import add_force, image_progress
from transxnet.cli.recipe_options import RecipeParser, settings_of
from transxnet.cli.streams import note, table_console
from transxnet.console import SafeConsole, Table, escape
from transxnet.data.sources import DIGITS
from transxnet.errors import ConfigError, Stopped
from transxnet.files import user_path
from transxnet.output_paths import output_folder
from transxnet.plotting.style import save_figure
from transxnet.tasks import open_recipe

_ABOUT = """\
Train networks under one budget on one data set, each with several seeds, and report which differ
by more than the noise of the seeds: a small version of Tables V to IX that a laptop can run.
Networks are registered names, or "table5" to "table9" for all rows of a table of the paper, on the
nano network. The others are compared with the first network: of a table, the paper's own choice.

Without options they are trained on scikit-learn's handwritten digits. After an interruption, the
same command resumes: finished runs are not repeated."""
_EXAMPLES = """\
  transxnet compare table5 --out runs/table5
  transxnet compare transxnet_nano transxnet_nano_table6_dwconv --seeds 5 --epochs 30 --out runs/two
  transxnet compare table9 --data photos --recipe pictures --out runs/table9
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, train, and print."""
    if any(argument.partition("=")[0] == "--model" for argument in arguments):
        raise ConfigError("name the networks themselves, without --model")
    options, recipe = _parsed(arguments)
    names = [name for given in options.networks for name in _networks(given, options.base)]
    names = list(dict.fromkeys(names))
    seeds = range(recipe.seed, recipe.seed + options.seeds)
    checked("the last seed", seeds[-1], Seed)
    from transxnet.plotting.compare_figure import draw_comparison
    from transxnet.research.compare import as_dict, compare, conclusion, is_comparison, write  # imports Lightning

    data = [] if recipe.data == DIGITS else [user_path(recipe.data)]
    out = output_folder(options.out, inputs=data, ours=is_comparison, force=options.force)

    with image_progress() as progress:
        task = progress.add_task("training", total=len(names) * options.seeds)

        def done(name: str, seed: int, score: float) -> None:
            progress.advance(task)
            note(f"{name}, seed {seed}: {score:.2%}")

        try:
            comparison = compare(names, recipe, seeds, out, SafeConsole(quiet=True), done)
        except Stopped as stopped:
            command = shlex.join(["transxnet", "compare", *arguments])
            note(f"stopped by {stopped.signal.name}; resume with: {command}")
            return 130
    write(comparison, out)
    save_figure(draw_comparison(comparison), [out / "comparison.png", out / "comparison.pdf"])
    if options.json:
        sys.stdout.write(json.dumps(as_dict(comparison), indent=2) + "\n")
        return 0
    table = Table("network", "parameters", "mean top-1", "deviation", "beside the first", box=None)
    for one in comparison.contenders:
        deviation = "" if one.deviation is None else f"{100 * one.deviation:.2f}"
        chance = "" if one.p_value is None else f"{one.verdict} (p = {one.p_value:.2f})"
        table.add_row(escape(one.name), f"{one.parameters / 1e6:.2f} M", f"{100 * one.mean:.2f} %", deviation, chance)
    console = table_console()
    console.print(table)
    console.print(conclusion(comparison), markup=False)
    console.print(f"wrote comparison.png, .pdf, .md and .json to {out}", markup=False)
    return 0


def _parser() -> RecipeParser:
    parser = RecipeParser("compare", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet compare NETWORK [NETWORK ...] --out FOLDER [options]"
    add = parser.add_argument
    add("networks", type=str, nargs="+", metavar="NETWORK", help='registered names, or "table5" to "table9"')
    add("--out", type=str, required=True, help="folder of the runs and of the comparison")
    parser.add_number("--seeds", SeedCount, default=3, help="runs of each network")
    add("--base", type=str, default="nano", choices=list(BASES), help="network of the tables' rows (default: nano)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add_force(parser)
    add("--recipe", type=str, help="a YAML file, or the name of a shipped recipe (default: digits)")
    parser.add_recipe(ClassificationRecipe, open_recipe("digits").settings)
    return parser


def _parsed(arguments: Sequence[str]) -> tuple[Any, ClassificationRecipe]:
    """The options, and the recipe that they override."""
    options = _parser().parse(arguments)
    if options.recipe == "":
        raise ConfigError("--recipe needs a value")
    file = open_recipe(options.recipe or DIGITS, ClassificationRecipe.task)
    recipe = file.recipe(settings_of(ClassificationRecipe, options))
    assert isinstance(recipe, ClassificationRecipe)
    return options, recipe


def _networks(given: str, base: str) -> list[str]:
    match = re.fullmatch(r"table([5-9])", given)
    if not match:
        return [given]
    rows = [row for row in ROWS.values() if row.table == int(match[1])]
    rows.sort(key=lambda row: bool(row.changes) and row.key != "d_mixer")  # the paper's own choice comes first
    return [row.network(base) for row in rows]
