"""``transxnet models``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from transxnet.cli.parsing import CommandParser
from transxnet.cli.streams import table_console
from transxnet.config import VARIANTS
from transxnet.console import Table
from transxnet.research.complexity import complexity
from transxnet.zoo import RELEASED, create_model

_ABOUT = """\
List the networks: parameters, multiply-accumulate operations for one image of 224 x 224 (all of
them, and by the paper's rule, which leaves out the products inside attention and IDConv), and the
published ImageNet-1K and V2 accuracy of the released weights, not measured here."""
_EXAMPLES = """\
  transxnet models
  transxnet models --json
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, count and print."""
    parser = CommandParser("models", _ABOUT, _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse(arguments)
    rows = [_row(name) for name in VARIANTS]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(rows)
    return 0


def _row(name: str) -> dict[str, Any]:
    with torch.device("meta"):  # counting needs no weights
        cost = complexity(create_model(name), (3, 224, 224))
    return {
        "name": name,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "paper_macs": cost.paper_macs,
        "released": [
            {
                "name": f"{name}.{release.tag}",
                "image_size": release.img_size,
                "top1": release.top1,
                "top1_v2": release.top1_v2,
                "url": release.url,
            }
            for release in RELEASED
            if release.architecture == name
        ],
    }


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    costs, accuracy = ("params (M)", "MACs (G)", "paper's (G)"), ("size", "top-1", "V2 top-1")
    for heading in ("network", *costs, "released weights", *accuracy):
        numeric = heading not in ("network", "released weights")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        cost = (f"{row['parameters'] / 1e6:.2f}", f"{row['macs'] / 1e9:.3f}", f"{row['paper_macs'] / 1e9:.3f}")
        releases = row["released"] or [None]
        for index, release in enumerate(releases):
            about = ("none", "", "", "") if release is None else (
                release["name"], str(release["image_size"]), f"{release['top1']}", f"{release['top1_v2'] or '-'}"
            )  # fmt: skip
            table.add_row(*((row["name"], *cost) if index == 0 else ("", "", "", "")), *about)
    table_console().print(table)
