"""What the subcommands' parsers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transxnet.bounds import BatchSize, ImageSide, Seed, Workers
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.cli.command import CommandParser as CommandParser
from transxnet.cli.streams import SafeConsole
from transxnet.dense.create import holds_dense, load_dense
from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import ConfigError
from transxnet.inference.adapters import ExportedNetwork
from transxnet.inference.description import FORMATS
from transxnet.inference.detections import ExportedDetector
from transxnet.inference.fuse import fuse
from transxnet.inference.runtimes import is_exported, load_exported
from transxnet.model import TransXNet
from transxnet.output_paths import output_file
from transxnet.plotting.style import figure_files
from transxnet.research.networks import Network, open_networks
from transxnet.zoo import create_model, load_model


def add_network_arguments(parser: CommandParser) -> None:
    """The options that choose a network and where it runs."""
    add, add_number = parser.add_argument, parser.add_number
    add(
        "--checkpoint",
        type=str,
        help="weights: a released file, a file or run folder of ours, an exported file, or a URL",
    )
    add("--model", type=str, help="name of the network; without a checkpoint, its released weights are downloaded")
    add_number(
        "--image_size", ImageSide, help="side of the square images in pixels, where it is not to be the network's"
    )
    add_number("--batch_size", BatchSize, default=32, help="images in a step")
    add_number("--workers", Workers, default=0, help="processes that read images (default: 0, the main one)")
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
    """What timm takes for the size of square images."""
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


def add_force(parser: CommandParser) -> None:
    """The option without which no file is replaced."""
    parser.add_argument("--force", action="store_true", help="replace files that exist (inputs are never replaced)")


def figure_outputs(out: str, options: Any, inputs: Iterable[str | Path] = ()) -> list[Path]:
    """The files that a figure is written to, checked before it is computed.

    Raises:
        ConfigError: If the ending is unknown, or a file may not be written.
    """
    return [output_file(path, inputs=inputs, force=options.force) for path in figure_files(out)]


def add_compared_networks(parser: CommandParser) -> None:
    """The options that choose several networks, of ours and of timm, and where they run."""
    add = parser.add_argument
    add("--model", type=str, nargs="+", action="extend", metavar="NAME[=CHECKPOINT]",
        help="networks of ours or of timm, with random weights if they have no others")  # fmt: skip
    add("--checkpoint", type=str, action="append", default=[],
        help="weights of the model, or a classifier of ours: a file, a run folder, a URL; repeatable")  # fmt: skip
    add("--pretrained", action="store_true", help="download the weights of models without a checkpoint")
    parser.add_number(
        "--image_size", ImageSide, help="side of the square images in pixels, where it is not to be the network's"
    )
    add("--device", type=str, default="auto", help='such as "cpu" or "cuda" (default: the GPU, if there is one)')
    parser.add_number("--seed", Seed, default=0, help="of random weights and random choices")


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


def image_progress() -> Progress:
    """A bar that counts images, on standard error so that results can be piped."""
    console = SafeConsole(stderr=True)
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
