"""``transxnet plot``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from transxnet.cli.parsing import CommandParser, add_force, figure_outputs
from transxnet.cli.streams import say
from transxnet.plotting.accuracy_figure import draw_accuracies
from transxnet.plotting.style import save_figure
from transxnet.research.accuracy import table2

_ABOUT = """\
Draw figures from the paper's published numbers. "accuracy" is figure 2: the ImageNet-1K accuracy of
Table II's networks against their multiply-accumulate operations, or against their parameters."""
_EXAMPLES = """\
  transxnet plot accuracy
  transxnet plot accuracy --cost params --out accuracy.svg
"""


def run(arguments: Sequence[str]) -> int:
    """Parse and draw."""
    parser = CommandParser("plot", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet plot accuracy [options]"
    parser.add_argument("figure", type=str, choices=["accuracy"], help='which figure: "accuracy"')
    parser.add_argument("--cost", type=str, choices=["macs", "params"], default="macs", help="macs (default) or params")
    parser.add_argument("--out", type=str, default="accuracy", help=".png, .pdf or .svg; with no ending, .png and .pdf")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_force(parser)
    options = parser.parse(arguments)
    files = figure_outputs(options.out, options)
    save_figure(draw_accuracies(table2(), options.cost), files)
    if options.json:
        numbers = {"figure": [str(path) for path in files], "networks": [asdict(row) for row in table2()]}
        sys.stdout.write(json.dumps(numbers, indent=2) + "\n")
    else:
        say(f"wrote {', '.join(map(str, files))}")
    return 0
