"""Options and output that several subcommands share."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from transxnet.api.networks import choose_device as choose_device
from transxnet.bounds import BatchSize, ImageSide, Seed, Workers
from transxnet.cli.command import ArgumentGroup
from transxnet.cli.command import CommandParser as CommandParser
from transxnet.console import image_progress as image_progress
from transxnet.inference.description import FORMATS
from transxnet.inference.precision import Precision
from transxnet.output_paths import output_file
from transxnet.research.networks import Network, open_networks

OPENING_OPTIONS = ("checkpoint", "model", "image_size", "device", "fuse", "precision", "runtime")
"""The options of :func:`add_opening_arguments`."""

NETWORK_OPTIONS = (*OPENING_OPTIONS, "batch_size", "workers")
"""The options of :func:`add_network_arguments`, which are arguments of ``transxnet.evaluate`` and ``Predictor``."""


def add_network_arguments(parser: CommandParser) -> None:
    """Add the options that choose a network, what it runs on, and how its images are read."""
    add_opening_arguments(parser)
    parser.add_number("--batch_size", BatchSize, default=32, help="images in a step")
    parser.add_number("--workers", Workers, default=0, help="processes that read images (default: 0, the main one)")


def add_opening_arguments(
    parser: CommandParser, group: ArgumentGroup | None = None, *, fused: str = "on a GPU only"
) -> None:
    """Add the options that choose a network and what it runs on.

    Args:
        parser: The parser.
        group: A group of its options, to add them to.
        fused: When a network is fused by default.
    """
    add, add_number = (group or parser).add_argument, functools.partial(parser.add_number, group=group)
    add(
        "--checkpoint",
        type=str,
        help="weights: a released file, a file or run folder of ours, an exported file, or a URL",
    )
    add("--model", type=str, help="name of the network; without a checkpoint, its released weights are downloaded")
    add_number("--image_size", ImageSide, help="side of the square images in pixels, if not the network's own")
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    add("--fuse", action="store_true", default=None, help="compute the same faster: fold what can be folded and, on "
        "a CPU, use native kernels: a wheel's, or compiled by the machine's C++ compiler "
        f"(default: {fused})")  # fmt: skip
    add("--no_fuse", dest="fuse", action="store_false", help="compute with the network as it is trained")
    add("--precision", type=str, choices=list(get_args(Precision)), default="auto", metavar="PRECISION",
        help="32 (float32), bf16 (bfloat16) or auto: bf16 on a GPU that has it, else 32 (default: auto)")  # fmt: skip
    add("--runtime", type=str, choices=list(FORMATS), metavar="RUNTIME",
        help=f"runtime of an exported file: {', '.join(FORMATS)} (default: the one it was written for; .pt2 files "
        "are programs, which run only if torch or aot is given)")  # fmt: skip


def network_settings(options: Any, names: Iterable[str] = NETWORK_OPTIONS) -> dict[str, Any]:
    """The options of :func:`add_network_arguments`, or some of them, as keyword arguments."""
    return {name: getattr(options, name) for name in names}


def add_force(parser: CommandParser) -> None:
    """Add the option without which no file is replaced."""
    parser.add_argument("--force", action="store_true", help="replace files that exist (inputs are never replaced)")


def add_crowds(parser: CommandParser) -> None:
    """Add the option for annotations with ``iscrowd: 1``."""
    parser.add_argument(
        "--crowds",
        type=str,
        choices=["ignore", "as-objects", "as_objects"],
        default="ignore",
        metavar="CROWDS",
        help='annotations with iscrowd 1: "ignore", or "as-objects", as CVAT writes brush masks (default: ignore)',
    )


def figure_outputs(out: str, options: Any, inputs: Iterable[str | Path] = ()) -> list[Path]:
    """The files that a figure is written to, checked before it is computed.

    Raises:
        ConfigError: If the ending is unknown, or a file may not be written.
    """
    from transxnet.plotting.style import figure_files  # with matplotlib, which takes a second

    return [output_file(path, inputs=inputs, force=options.force) for path in figure_files(out)]


def add_compared_networks(parser: CommandParser) -> None:
    """Add the options that choose several networks, of ours and of timm, and what they run on."""
    add = parser.add_argument
    add("--model", type=str, nargs="+", action="extend", metavar="NAME[=CHECKPOINT]",
        help="networks of ours or of timm, with random weights if they have no others")  # fmt: skip
    add("--checkpoint", type=str, action="append", default=[],
        help="weights of the model, or a classifier of ours: a file, a run folder, a URL; repeatable")  # fmt: skip
    add("--pretrained", action="store_true", help="download the weights of models without a checkpoint")
    parser.add_number("--image_size", ImageSide, help="side of the square images in pixels, if not the network's own")
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    parser.add_number("--seed", Seed, default=0, help="seed of random weights and random choices")


def open_compared_networks(options: Any) -> list[Network]:
    """The networks that these options choose; our tiny one if they choose none.

    Raises:
        CheckpointError: If weights cannot be read.
        ConfigError: If a name is unknown, or several models share checkpoints.
    """
    return open_networks(
        options.model or ([] if options.checkpoint else ["transxnet_tiny"]),
        options.checkpoint,
        pretrained=options.pretrained,
        image_size=options.image_size,
        seed=options.seed,
    )
