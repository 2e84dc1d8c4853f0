"""``transxnet gradcam``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transxnet.bounds import ImageCount
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
from transxnet.data.examples import Example, open_examples
from transxnet.data.images.reading import BadImageError
from transxnet.errors import ConfigError, DataError
from transxnet.files import user_path
from transxnet.output_paths import check_apart
from transxnet.plotting.gradcam_figure import draw_activations
from transxnet.plotting.style import save_figure
from transxnet.research.gradcam import ActivationMap, activation_maps, find_class, stage_layer
from transxnet.research.networks import Network, describe_sizes, describe_weights, stage_names

_ABOUT = """\
Draw with Grad-CAM where the stages of classifiers find a class (figure 7 of the paper), for
networks of ours and of timm side by side. By default the class is each network's most probable
one, and the layer is the last stage's output, before any final normalisation.

Without images, photographs from scikit-image and scikit-learn are used. Unreadable images are
reported and the others used; the exit status is then 1."""
_EXAMPLES = """\
  transxnet gradcam cat.jpg --checkpoint transx-t.pth.tar --class "tabby"
  transxnet gradcam photos --model transxnet_tiny=transx-t.pth.tar resnet50=r50.pth --stage all
  transxnet gradcam digits --checkpoint runs/digits --stage 3 --max-images 6 --out digits.pdf
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, compute, draw and print; returns 1 if an image could not be read."""
    options = _parser().parse(arguments)
    examples = open_examples(options.images, options.max_images, options.seed)
    folders = [path for path in map(user_path, options.images) if path.is_dir()]
    files = figure_outputs(options.out, options, [*options.images, *options.checkpoint])
    check_apart(files[0], folders)  # otherwise the next run would read it as an image
    device = choose_device(options.device)
    networks = open_compared_networks(options)
    plans = [(network, _layers(network, options), find_class(network, options.target)) for network in networks]
    names, rows, bad = [], [], {}
    with image_progress() as progress:
        for example in progress.track(examples, description="computing maps"):
            try:
                rows.append([found for plan in plans for found in _maps(example, *plan, device)])
                names.append(example.name)
            except BadImageError as error:
                bad[error.path] = error.reason
    for name, reason in bad.items():
        note(f"cannot read {name}: {reason}")
    if not rows:
        raise DataError(f"none of {len(examples)} images can be used")
    save_figure(draw_activations(rows, _title(networks, len(rows))), files)
    _report(names, rows, bad, files, options.json)
    return 1 if bad else 0


def _parser() -> CommandParser:
    parser = CommandParser("gradcam", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet gradcam [IMAGE ...] [options]"
    add = parser.add_argument
    add("images", type=str, nargs="*", metavar="IMAGE", help='files, folders, glob patterns, "digits"')
    add_compared_networks(parser)
    add("--class", dest="target", type=str, metavar="CLASS", help="name or index (default: the most probable one)")
    add("--stage", type=str, nargs="+", default=["last"], help='stages from 1, "last" (default) or "all"')
    add("--layer", type=str, help="name of a module, instead of a stage")
    parser.add_number("--max_images", ImageCount, default=4, help="number of images; of more, a random sample")
    add("--out", type=str, default="gradcam", help=".png, .pdf or .svg; without an ending, .png and .pdf")
    add("--json", action="store_true", help="print JSON instead of a table")
    add_force(parser)
    return parser


def _layers(network: Network, options: Any) -> list[tuple[str, str]]:
    if options.layer:
        return [(options.layer, options.layer)]
    asked = options.stage
    stages = [str(stage) for stage in stage_names(network.model)] if list(asked) == ["all"] else asked
    return [stage_layer(network, stage) for stage in stages]


def _maps(
    example: Example, network: Network, layers: list[tuple[str, str]], target: int | None, device: str
) -> list[ActivationMap]:
    try:
        return activation_maps(network, example, layers, target, device)
    except ConfigError as error:
        raise ConfigError(f"{network.name}: {error}") from error


def _title(networks: Sequence[Network], images: int) -> str:
    title = f"Grad-CAM, input {describe_sizes(networks)}, {images} image{'s' if images > 1 else ''}"
    return f"{title}\n{describe_weights(networks)}"


def _report(
    names: Sequence[str],
    rows: Sequence[Sequence[ActivationMap]],
    bad: dict[str, str],
    files: Sequence[Path],
    as_json: bool,
) -> None:
    found = [(name, map_) for name, row in zip(names, rows, strict=True) for map_ in row]
    if as_json:
        result = {"figure": [str(path) for path in files], "bad_images": bad}
        maps = [{"image": name, **_as_json(map_)} for name, map_ in found]
        sys.stdout.write(json.dumps({**result, "maps": maps}, indent=2) + "\n")
        return
    table = Table("image", "network", "weights", "layer", "class", "probability", box=None, pad_edge=False)
    for name, map_ in found:
        network = map_.network
        cells = (Path(name).name, network.name, network.weights, map_.layer, map_.class_name)
        table.add_row(*map(escape, cells), f"{map_.probability:.1%}")
    table_console().print(table)
    say(f"wrote {', '.join(map(str, files))}")


def _as_json(found: ActivationMap) -> dict[str, Any]:
    row, column = divmod(int(found.values.argmax()), found.values.shape[1])
    return {
        "network": found.network.name,
        "weights": found.network.weights,
        "trained": found.network.trained,
        "layer": found.layer,
        "class": found.class_name,
        "class_index": found.target,
        "probability": found.probability,
        "brightest": {"row": row, "column": column},
    }
