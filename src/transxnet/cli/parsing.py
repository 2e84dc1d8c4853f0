"""What the subcommands' parsers have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transxnet.analysis.networks import Network, open_networks
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.dense.create import DenseNetwork, holds_dense, load_dense
from transxnet.deploy.adapters import ExportedNetwork
from transxnet.deploy.description import FORMATS
from transxnet.deploy.detections import ExportedDetector
from transxnet.deploy.fuse import fuse
from transxnet.deploy.runtimes import is_exported, load_exported
from transxnet.errors import ConfigError
from transxnet.model import TransXNet
from transxnet.registry import create_model, load_model

_OPTION = re.compile(r"--[a-z][a-z_.-]*")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they were written, options in a terminal 100 columns wide."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30, "width": 98, **settings})


class CommandParser(ArgumentParser):
    """jsonargparse with dashes in the options' names, and mistakes as one line.

    Args:
        command: The subcommand.
        about: What it does.
        examples: Shown at the end of the help.
    """

    def __init__(self, command: str, about: str, examples: str) -> None:
        super().__init__(
            prog=f"transxnet {command}",
            usage=f"transxnet {command} [options]",
            description=about,
            epilog=f"examples:\n{examples}",
            formatter_class=Formatter,
        )

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parse; raises ConfigError on a mistake."""
        return self.parse_args([self._internal(argument) for argument in arguments])

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = super().format_help(formatter)
        return _OPTION.sub(lambda match: match[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = re.sub(r'Parser key "([\w.]+)":', r"--\1:", " ".join(str(message).split()))
        line = _OPTION.sub(lambda match: match[0].replace("_", "-"), line)
        raise ConfigError(f"{line} (`{self.prog} --help` tells the options)")

    @staticmethod
    def _internal(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def add_network_arguments(parser: ArgumentParser) -> None:
    """The options that choose a network and where it runs."""
    add = parser.add_argument
    add(
        "--checkpoint",
        type=str,
        help="weights: a released file, a file or run folder of ours, an exported file, or a URL",
    )
    add("--model", type=str, help="name of the network; without a checkpoint, its released weights are downloaded")
    add("--image_size", type=int, help="side of the square images in pixels, where it is not to be the network's")
    add("--batch_size", type=int, default=32, help="images in a step (default: 32)")
    add("--workers", type=int, default=0, help="processes that read images (default: 0, the main one)")
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    add("--fuse", action="store_true", help="compute the same faster: fold what can be folded and, on a CPU, use "
        "kernels that the machine's C++ compiler makes")  # fmt: skip
    add("--runtime", type=str, choices=list(FORMATS), metavar="RUNTIME",
        help=f"what runs an exported file: {', '.join(FORMATS)} (default: what it was written for; .pt2 files are "
        "programs, which run only if torch or aot is asked for)")  # fmt: skip


def open_exported(options: Any) -> ExportedNetwork | ExportedDetector | None:
    """The exported file that the options name as the checkpoint; None if that is no exported file.

    Raises:
        CheckpointError: If the file cannot be read.
        ConfigError: If an option is given that is not for exported files, or the runtime is missing.
    """
    if not options.checkpoint or not is_exported(options.checkpoint):
        if options.runtime is not None:
            raise ConfigError("--runtime is for files that `transxnet export` wrote; give one as --checkpoint")
        return None
    if options.model is not None:
        raise ConfigError(f"{options.checkpoint} says itself which network it holds; leave --model out")
    if options.device not in ("auto", "cpu"):
        raise ConfigError("exported files run on the processor here; leave --device out")
    options.device = "cpu"
    runtime = load_exported(options.checkpoint, options.runtime)
    task = runtime.description.task
    if task == "features":
        raise ConfigError(f"{options.checkpoint} gives feature maps, no answers; transxnet.load_exported runs it")
    if task == "detection":
        _no_image_size(options)
        return ExportedDetector(runtime)
    network = ExportedNetwork(runtime)
    if task == "segmentation":
        _no_image_size(options)
    elif options.image_size is not None:
        network.pretrained_cfg["input_size"] = _square(options.image_size, network.pretrained_cfg["input_size"][0])
    return network


def _no_image_size(options: Any) -> None:
    if options.image_size is not None:
        raise ConfigError(f"{options.checkpoint} says itself how large images are; leave --image-size out")


def _square(side: int, channels: int) -> tuple[int, int, int]:
    """What timm takes for the size of square images; raises ConfigError if it is too small."""
    if side < 32:
        raise ConfigError(f"--image-size must be at least 32, not {side}")
    return channels, side, side


def open_network(options: Any) -> Any:
    """What the options ask for: a network, or an exported file that is called in the same way.

    Detectors and segmenters have a ``head_description``, classifiers have none.

    Raises:
        CheckpointError: If it cannot be had.
        ConfigError: If nothing was asked for, or options do not go together.
    """
    exported = open_exported(options)
    if exported is not None:
        if options.fuse:
            raise ConfigError("--fuse is for checkpoints; an exported file holds a fused network already")
        return exported
    model = open_dense(options) or create_network(options)
    return fuse(model, native=choose_device(options.device) == "cpu") if options.fuse else model


def open_dense(options: Any) -> DenseNetwork | None:
    """The detector or segmenter that the options' checkpoint holds; None if it holds neither.

    Raises:
        CheckpointError: If the weights cannot be had.
        ConfigError: If an option is given that is for classifiers.
    """
    if not options.checkpoint:
        return None
    read = read_checkpoint(options.checkpoint)
    if not holds_dense(read):
        return None
    for name in ("model", "image_size"):
        if getattr(options, name) is not None:
            raise ConfigError(
                f"{options.checkpoint} says itself which network it holds; leave --{name.replace('_', '-')} out"
            )
    return load_dense(read)


def add_compared_networks(parser: ArgumentParser) -> None:
    """The options that choose several networks, of ours and of timm, and where they run."""
    add = parser.add_argument
    add("--model", type=str, nargs="+", action="extend", metavar="NAME[=CHECKPOINT]",
        help="networks of ours or of timm, with random weights if they have no others")  # fmt: skip
    add("--checkpoint", type=str, action="append", default=[],
        help="weights of the model, or a classifier of ours: a file, a run folder, a URL; repeatable")  # fmt: skip
    add("--pretrained", action="store_true", help="download the weights of models without a checkpoint")
    add("--image_size", type=int, help="side of the square images in pixels, where it is not to be the network's")
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    add("--seed", type=int, default=0, help="of random weights and random choices (default: 0)")


def open_compared_networks(options: Any) -> list[Network]:
    """The networks that these options choose; the tiny one of ours if they choose none.

    Raises:
        CheckpointError: If weights cannot be had.
        ConfigError: If a name is unknown, or several models share checkpoints.
    """
    return open_networks(
        options.model or ([] if options.checkpoint else ["transxnet_tiny"]),
        options.checkpoint,
        pretrained=options.pretrained,
        image_size=options.image_size,
        seed=options.seed,
    )


def create_network(options: Any) -> TransXNet:
    """The classifier that the options ask for.

    Raises:
        ConfigError: If neither a checkpoint nor a model was given.
        CheckpointError: If the weights cannot be had.
    """
    if options.model and options.checkpoint:
        model = create_model(options.model, checkpoint=options.checkpoint)
    elif options.checkpoint:
        model = load_model(options.checkpoint)
    elif options.model:
        model = create_model(options.model, pretrained=True)
    else:
        raise ConfigError("give --checkpoint (a file or a run folder), or --model for its released weights")
    if options.image_size is not None:
        vars(model)["pretrained_cfg"]["input_size"] = _square(options.image_size, model.in_chans)
    return model


def choose_device(name: str) -> str:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {name!r} here ({str(error).splitlines()[0]})") from error
    return name


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as need be in a file."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def image_progress() -> Progress:
    """A bar that counts images, on standard error so that results can be piped."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
