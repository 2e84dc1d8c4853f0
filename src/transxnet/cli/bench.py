"""``transxnet bench``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from transxnet.bounds import BatchSize, ImageSide, Rounds, Seconds
from transxnet.cli.parsing import CommandParser, add_force, choose_device, figure_outputs, image_progress
from transxnet.cli.streams import say, table_console
from transxnet.console import Table, escape
from transxnet.extras import require
from transxnet.files import write_text
from transxnet.output_paths import output_file
from transxnet.research.bench import Candidate, Precision, Speed, Spread, measure_speed
from transxnet.research.machine import describe_machine
from transxnet.research.modes import MODES
from transxnet.research.networks import open_networks

_ABOUT = """\
Measure the throughput, the latency and the memory of networks, of ours and of timm (figure 8 of
the paper). All networks, modes and precisions are timed in turns. The table shows medians and
quartiles; the ratio is the speed relative to the first network's in the same round. Weights are
random, which does not change the speed.

Memory is that of the weights and of the tensors that a pass holds at the same time, as counted by
PyTorch's allocator.

bf16 is autocast: the weights stay in float32. bf16_weights converts network and images, as
.to(torch.bfloat16) does. Compiled, a network of ours is one graph; cuda_graph and fused_cuda_graph
launch all its kernels at once and need a CUDA device. There, timings wait for the device before
and after all batches of a timing, not between them."""
_EXAMPLES = """\
  transxnet bench transxnet_tiny swin_tiny_patch4_window7_224 pvt_v2_b1
  transxnet bench transxnet_tiny --mode eager channels_last compiled --batch-size 1 32 --plot speed
  transxnet bench transxnet_small --precision fp32 bf16 --image-size 224 384 --csv speed.csv
  transxnet bench --mode eager fused_cuda_graph --precision bf16_weights --device cuda
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, measure and print."""
    options = _parser().parse(arguments)
    files = []
    if options.plot is not None:
        require('"transxnet bench --plot"', "analysis", "matplotlib")
        files = figure_outputs(options.plot, options)
    rows_file = output_file(options.csv, force=options.force) if options.csv is not None else None
    device = choose_device(options.device)
    names = options.models or ["transxnet_tiny"]
    settings = [(mode, precision) for mode in options.mode for precision in options.precision]
    machine = describe_machine(device)
    groups = []
    with image_progress() as progress:
        steps = len(names) * len(settings) * len(options.batch_size) * len(options.image_size or [None])
        task = progress.add_task("measuring", total=steps * (options.rounds + 1))
        for image_size in options.image_size or [None]:
            networks = open_networks(names, image_size=image_size)
            candidates = [Candidate(network, *setting) for network in networks for setting in settings]
            groups += [
                measure_speed(
                    candidates,
                    batch_size,
                    rounds=options.rounds,
                    min_seconds=options.min_seconds,
                    device=device,
                    advance=lambda: progress.advance(task),
                )
                for batch_size in options.batch_size
            ]
    rows = [_row(speed) for group in groups for speed in group]
    result = {"machine": machine, "rounds": options.rounds, "results": rows}
    if rows_file:
        write_text(rows_file, _as_csv(rows, machine))
    if files:
        from transxnet.plotting.speed_figure import draw_speeds
        from transxnet.plotting.style import save_figure

        title = f"{_machine(machine)}\nmedian and quartiles of {options.rounds} rounds, random weights"
        save_figure(draw_speeds(groups, title), files)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(groups, machine, options.rounds)
        for path in [*([options.csv] if options.csv else []), *files]:
            say(f"wrote {path}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("bench", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet bench [MODEL ...] [options]"
    add = parser.add_argument
    add("models", type=str, nargs="*", metavar="MODEL", help="networks of ours or timm's (default: transxnet_tiny)")
    add(
        "--mode",
        type=str,
        nargs="+",
        default=["eager"],
        choices=list(MODES),
        metavar="MODE",
        help=f"{', '.join(MODES)} (default: eager)",
    )
    add("--precision", type=str, nargs="+", default=["fp32"], choices=list(get_args(Precision)), metavar="PRECISION",
        help=f"{', '.join(get_args(Precision))} (default: fp32)")  # fmt: skip
    add_number = parser.add_number
    add_number("--batch_size", BatchSize, nargs="+", default=[32], help="images in a batch (default: 32, the paper's)")
    add_number("--image_size", ImageSide, nargs="+",
        help="sides of the square images, if not the networks' own")  # fmt: skip
    add_number("--rounds", Rounds, default=30, help="timings of each network")
    add_number("--min_seconds", Seconds, default=0.1, help="minimum duration of a timing")
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    add("--plot", type=str, help="draw bars: .png, .pdf or .svg; without an ending, .png and .pdf")
    add("--csv", type=str, help="also write the results to this file")
    add("--json", action="store_true", help="print JSON, every timing included, instead of a table")
    add_force(parser)
    return parser


def _row(speed: Speed) -> dict[str, Any]:
    candidate = speed.candidate
    return {
        "network": candidate.network.name,
        "mode": candidate.mode,
        "precision": candidate.precision,
        "batch_size": speed.batch_size,
        "image_size": list(speed.image_size),
        "images_per_second": asdict(speed.images_per_second),
        "latency_ms": asdict(speed.latency),
        "ratio": asdict(speed.ratio),
        "memory_bytes": speed.memory,
        "seconds": list(speed.seconds),
    }


def _as_csv(rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    text = io.StringIO()
    flat = [_flat(row) | machine for row in rows]
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{part}": number for part, number in value.items()}
        elif name == "image_size":
            flat |= {"height": value[0], "width": value[1]}
        elif name != "seconds":
            flat[name] = value
    return flat


def _print(groups: Sequence[Sequence[Speed]], machine: dict[str, Any], rounds: int) -> None:
    console = table_console()
    for group in groups:
        first = group[0]
        height, width = first.image_size
        table = Table(box=None, pad_edge=False, title_justify="left", title_style="")
        table.title = f"batch {first.batch_size}, {height} x {width}"
        for heading in ("network", "run as", "images/s", "ms a batch", "ratio", "MB"):
            table.add_column(heading, justify="left" if heading in ("network", "run as") else "right")
        for speed in group:
            candidate = speed.candidate
            table.add_row(
                escape(candidate.network.name),
                f"{candidate.mode} {candidate.precision}",
                _spread(speed.images_per_second),
                _number(speed.latency.median),
                _spread(speed.ratio, digits=2),
                f"{speed.memory / 1e6:.0f}",
            )
        console.print(table)
    console.print(f"median of {rounds} rounds, quartiles in brackets, random weights", markup=False)
    console.print(f"{_machine(machine)}, timm {machine['timm']}, load {machine['load']}", markup=False)


def _machine(machine: dict[str, Any]) -> str:
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{machine['device']}, {threads}, PyTorch {machine['torch']}"


def _spread(spread: Spread, digits: int | None = None) -> str:
    low, median, high = (_number(value, digits) for value in (spread.low, spread.median, spread.high))
    return f"{median} [dim]({low}-{high})[/dim]"


def _number(value: float, digits: int | None = None) -> str:
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
