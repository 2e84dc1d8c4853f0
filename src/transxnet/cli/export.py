"""``transxnet export``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transxnet.bounds import ImageCount
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.cli.parsing import CommandParser, add_force
from transxnet.cli.streams import note, table_console
from transxnet.console import SafeConsole, Table, escape
from transxnet.dense.backbone import create_backbone
from transxnet.dense.create import holds_dense, load_dense
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.inference.description import FORMATS, PRECISIONS, part_path, possible_files
from transxnet.inference.export import Exported, ExportError, check_choices, export
from transxnet.inference.export_checks import Check
from transxnet.inference.formats import DEFAULT_OPSET, OPSETS, Opset
from transxnet.inference.triton import (
    MODEL_FILE,
    model_name,
    model_path,
    repository_files,
    write_configuration,
)
from transxnet.output_paths import output_file
from transxnet.zoo import create_model, full_name, load_model

_ABOUT = """\
Write a network as a file for ONNX Runtime, OpenVINO or PyTorch, for any batch, height and width
from 32 x 32. The file is compared with the network at five sizes; if it differs, the exit status
is 1 and the file keeps ".unchecked" in its name. `transxnet predict` and `transxnet eval` run it;
.pt2 files are programs and run only with --runtime torch or --runtime aot. Mask R-CNN becomes
three files; give the one named by --out to the other commands.
The libraries are installed with pip install "transxnet[export]"."""
_EXAMPLES = """\
  transxnet export transx-t.pth.tar --format onnx --out tiny.onnx
  transxnet export runs/first --format openvino --precision bfloat16 --out first.xml
  transxnet export runs/first --format onnx --precision int8 --calibration photos --out first.onnx
  transxnet export maskrcnn_tiny.pth --format onnx --out maskrcnn.onnx
  transxnet export transx-t.pth.tar --features --format onnx --out maps.onnx
  transxnet export runs/first --format onnx --triton models --name first
"""
_BAR = "deviation is relative to the output's largest value"


def run(arguments: Sequence[str]) -> int:
    """Parse, export, compare and print; returns 1 if the file differs from the network."""
    options = _parser().parse(arguments)
    _check_destination(options)
    out = Path(MODEL_FILE) if options.triton is not None else user_path(options.out)
    check_choices(out, options.format, options.precision, options.opset)
    if options.triton is None:
        _check_outputs(possible_files(out, options.format), options)
    model = _open(options)
    if options.triton is not None:
        repository = user_path(options.triton)
        name = model_name(model, options.name)
        _check_outputs(repository_files(repository, name), options)
        out = model_path(repository, name)
    console = SafeConsole(stderr=True)
    try:
        with console.status("reading") as status:
            exported = export(
                model,
                out,
                format=options.format,
                precision=options.precision,
                opset=options.opset,
                calibration=options.calibration,
                calibration_images=options.calibration_images,
                check=not options.no_check,
                advance=status.update,
            )
    except ExportError as error:
        _report(error.exported, options.json)
        note(f"transxnet export: {error}")
        return 1
    beside = write_configuration(exported.path, exported.description) if options.triton is not None else []
    _report(exported, options.json, beside)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("export", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet export MODEL --format FORMAT (--out FILE | --triton FOLDER) [options]"
    add = parser.add_argument
    add("model", type=str, metavar="MODEL", help="a checkpoint (a released file, a file or run folder of ours, a URL), "
        "or a name, for its released weights")  # fmt: skip
    add("--format", type=str, required=True, choices=list(FORMATS), metavar="FORMAT",
        help="onnx, openvino, torch (torch.export) or aot (AOTInductor: compiled for this machine)")  # fmt: skip
    add("--out", type=str, help="the file to write: .onnx, .xml (openvino) or .pt2 (torch, aot)")
    add("--triton", type=str, metavar="FOLDER", help="instead of --out: a model repository of NVIDIA Triton, in which "
        "the model gets a folder with its file, configuration and class names (onnx)")  # fmt: skip
    add("--name", type=str, help="the model's name in that repository (default: the network's name)")
    add("--precision", type=str, default="float32", choices=list(PRECISIONS), metavar="PRECISION",
        help=f"{', '.join(PRECISIONS)} (default: float32)")  # fmt: skip
    add("--calibration", type=str, help='for int8: a folder of your images, "digits" or "scenes"; with a folder for '
        "each class, or with annotations, the accuracy before and after is printed")  # fmt: skip
    parser.add_number("--calibration_images", ImageCount, default=128, help="number of images for calibration")
    add("--features", action="store_true", help="of a classifier: export the maps of its stages instead of the scores")
    parser.add_number("--opset", Opset, default=DEFAULT_OPSET,
        help=f"ONNX's version of the operators, {OPSETS[0]} to {OPSETS[-1]}")  # fmt: skip
    add("--no_check", action="store_true", help="do not compare the file with the network")
    add("--json", action="store_true", help="print the result as JSON")
    add_force(parser)
    return parser


def _check_destination(options: Any) -> None:
    """Raise ConfigError if it is unclear what to write, or the format does not go with it."""
    if (options.out is None) == (options.triton is None):
        raise ConfigError("give one of --out, a file to write, and --triton, a folder of models")
    if options.triton is not None and options.format != "onnx":
        raise ConfigError(f"--triton writes ONNX files: give --format onnx, not {options.format}")
    if options.name is not None and options.triton is None:
        raise ConfigError("--name is the model's name in the folder of --triton; --out names the file")


def _check_outputs(files: Sequence[Path], options: Any) -> None:
    for file in files:
        output_file(file, inputs=[options.model], force=options.force)


def _open(options: Any) -> nn.Module:
    """The network to export, in evaluation mode."""
    name = options.model
    path = user_path(name)
    if not path.exists() and "://" not in name and not path.suffix and "/" not in name:
        full_name(name)  # raises ConfigError if there is none
        if options.features:
            raise ConfigError("--features needs a checkpoint; a name has released weights of a classifier")
        return create_model(name, pretrained=True).eval()
    read = read_checkpoint(name)
    if holds_dense(read):
        if options.features:
            raise ConfigError(f"{name} holds a whole detector or segmenter; --features is for classifiers")
        return load_dense(read).eval()
    classifier = load_model(name).eval()
    if not options.features:
        return classifier
    architecture = vars(classifier)["pretrained_cfg"]["architecture"]
    backbone = create_backbone(architecture, checkpoint=name, out_indices=range(classifier.config.num_stages)).eval()
    backbone.architecture = architecture
    return backbone


def _report(exported: Exported, as_json: bool, configuration: Sequence[Path] = ()) -> None:
    """Print the result of an export, and the files of its configuration for Triton."""
    if as_json:
        sys.stdout.write(json.dumps(_as_dict(exported, configuration), indent=2) + "\n")
        return
    console = table_console()
    if exported.checks:
        console.print(_table(exported.checks))
        console.print(_BAR, style="dim")
    for line in exported.lines:
        console.print(line, markup=False)
    about = exported.description
    beside = [part_path(exported.path, part).name for part in about.parts]
    opset = f", opset {about.opset}" if about.opset else ""
    megabytes = sum(file.stat().st_size for file in exported.files) / 1e6
    name = f"{about.architecture or 'network'}, {about.task}, {about.precision}{opset}, {megabytes:.1f} MB"
    console.print(f"{'wrote' if exported.passed else 'kept'} {exported.path}: {name}", markup=False)
    if beside:
        console.print(f"{' and '.join(beside)} belong to it: keep the files together", markup=False)
    for file in configuration:
        console.print(f"wrote {file}", markup=False)


def _table(checks: Sequence[Check]) -> Table:
    table = Table(box=None, pad_edge=False)
    parts = any(check.part for check in checks)
    if parts:
        table.add_column("of")
    for heading in ("batch", "height", "width", "deviation", "bound"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for check in checks:
        result = "same" if check.passed else f"[bold red]differs[/] {escape(check.error) or f'in {check.output}'}"
        size = (str(side) for side in (check.batch, check.height, check.width))
        first = [check.part or "images"] if parts else []
        table.add_row(*first, *size, f"{check.deviation:.1e}", f"{check.bound:.0e}", result)
    return table


def _as_dict(exported: Exported, configuration: Sequence[Path]) -> dict[str, Any]:
    return {
        "file": str(exported.path),
        "files": [str(file) for file in (*exported.files, *configuration)],
        "passed": exported.passed,
        "task": exported.description.task,
        "precision": exported.description.precision,
        "checks": [
            {**vars(check), "deviation": None if check.deviation != check.deviation else check.deviation,
             "passed": check.passed}
            for check in exported.checks
        ],
        "agreement": exported.agreement,
        "accuracy": exported.accuracy and {"before": exported.accuracy[0], "after": exported.accuracy[1]},
        "metric": exported.metric if exported.accuracy else None,
    }  # fmt: skip
