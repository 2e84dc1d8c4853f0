"""``transxnet erf``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transxnet.bounds import BatchSize, ImageCount
from transxnet.cli.parsing import (
    CommandParser,
    add_compared_networks,
    add_force,
    choose_device,
    figure_outputs,
    image_progress,
    open_compared_networks,
)
from transxnet.cli.streams import note, say, table_console
from transxnet.console import Table, escape
from transxnet.data.examples import open_examples
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.output_paths import check_apart
from transxnet.plotting.erf_figure import draw_fields
from transxnet.plotting.style import save_figure
from transxnet.research.erf import ReceptiveField, Settings, measure, state_path
from transxnet.research.networks import Network, describe_sizes, describe_weights, stage_index, stage_names
from transxnet.research.receptive_field import Rule

_ABOUT = """\
Draw the effective receptive field: which input pixels the centre of a stage's map depends on,
averaged over images (figures 1 and 6 of the paper), for networks of ours and of timm side by side.
Computed as in RepLKNet: the positive outputs at the centre are summed over channels, the positive
part of their gradient is summed over the input's channels; colours are logarithmic. The table
shows the side of the square around the centre that contains a share of the contribution, and the
square's share of the image.

Without images, seven photographs from scikit-image and scikit-learn are used. The same command
resumes a run that was stopped, and gives the same numbers."""
_EXAMPLES = """\
  transxnet erf --model transxnet_tiny resnet18 --out fields
  transxnet erf imagenet/val --checkpoint transx-t.pth.tar --stage all
  transxnet erf photos --model transxnet_tiny=transx-t.pth.tar swin_tiny_patch4_window7_224=swin.pth
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, measure, draw and print; returns 1 if an image could not be read."""
    options = _parser().parse(arguments)
    examples = open_examples(options.images, options.max_images, options.seed)
    folders = [path for path in map(user_path, options.images) if path.is_dir()]
    files = figure_outputs(options.out, options, [*options.images, *options.checkpoint])
    check_apart(files[0], folders)  # otherwise the next run would read it as an image
    device = choose_device(options.device)
    networks = open_compared_networks(options)
    rule: Rule = "abs" if options.absolute else "relu"
    plans = [Settings(_stages(network, options.stage), rule, options.batch_size, device) for network in networks]
    if len({len(plan.stages) for plan in plans}) > 1:
        raise ConfigError("these networks have different numbers of stages; name the stages: --stage 1 last")
    states = [state_path(files[0], network, examples, plan) for network, plan in zip(networks, plans, strict=True)]
    rows: list[list[ReceptiveField]] = []
    bad: dict[str, str] = {}
    with image_progress() as progress:
        task = progress.add_task("measuring", total=len(examples) * len(networks))
        for network, plan, state in zip(networks, plans, states, strict=True):
            fields, unread = measure(
                network, examples, plan, state=state, advance=lambda count: progress.advance(task, count)
            )
            rows.append(fields)
            bad |= unread
    save_figure(draw_fields(rows, _title(networks, rows[0][0].images)), files)
    for state in states:
        state.unlink(missing_ok=True)
    _report(rows, bad, files, options.json, rule)
    return 1 if bad else 0


def _parser() -> CommandParser:
    parser = CommandParser("erf", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet erf [IMAGE ...] [options]"
    add = parser.add_argument
    add("images", type=str, nargs="*", metavar="IMAGE", help='files, folders, glob patterns, "digits"')
    add_compared_networks(parser)
    add("--stage", type=str, nargs="+", default=["last"], help='stages from 1, "last" (default) or "all"')
    add("--absolute", action="store_true", help="all outputs, and the gradient's absolute value")
    parser.add_number("--max_images", ImageCount, default=100, help="number of images; of more, a random sample")
    parser.add_number("--batch_size", BatchSize, default=1, help="images in a step")
    add("--out", type=str, default="erf", help=".png, .pdf or .svg; without an ending, .png and .pdf (default: erf)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add_force(parser)
    return parser


def _stages(network: Network, asked: Sequence[str]) -> tuple[int, ...]:
    if list(asked) == ["all"]:
        return tuple(stage_names(network.model))
    return tuple(sorted({stage_index(network.model, stage) for stage in asked}))


def _title(networks: Sequence[Network], images: int) -> str:
    count = f"{images} image{'s' if images > 1 else ''}"
    title = f"Effective receptive field, input {describe_sizes(networks)}, mean of {count}"
    return f"{title}\n{describe_weights(networks)}"


def _report(
    rows: Sequence[Sequence[ReceptiveField]], bad: dict[str, str], files: Sequence[Path], as_json: bool, rule: str
) -> None:
    fields = [found for row in rows for found in row]
    if as_json:
        result = {"figure": [str(path) for path in files], "rule": rule, "bad_images": bad}
        sys.stdout.write(json.dumps({**result, "fields": [_as_json(found) for found in fields]}, indent=2) + "\n")
    else:
        headings = [f"{share:.0%}" for share, *_ in fields[0].squares()]
        table = Table("network", "weights", "stage", "images", *headings, box=None, pad_edge=False)
        for found in fields:
            squares = [f"{side} px [dim]{area:.1%}[/dim]" for _, side, area in found.squares()]
            network = found.network
            table.add_row(escape(network.name), escape(network.weights), str(found.stage), str(found.images), *squares)
        table_console().print(table)
        say(f"wrote {', '.join(map(str, files))}")
    for name, reason in bad.items():
        note(f"cannot read {name}: {reason}")


def _as_json(found: ReceptiveField) -> dict[str, Any]:
    return {
        "network": found.network.name,
        "weights": found.network.weights,
        "trained": found.network.trained,
        "stage": found.stage,
        "input_size": list(found.network.input_size),
        "images": found.images,
        "squares": [{"share": share, "side": side, "area": area} for share, side, area in found.squares()],
    }
