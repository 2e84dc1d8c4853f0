"""``transxnet eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from transxnet.bounds import Share
from transxnet.classification.evaluate import Evaluation, evaluate, run_network
from transxnet.classification.labels import label_names, readable_names
from transxnet.cli.parsing import (
    CommandParser,
    add_force,
    add_network_arguments,
    choose_device,
    image_progress,
    open_network,
)
from transxnet.cli.streams import table_console
from transxnet.data.sources import open_evaluation
from transxnet.output_paths import check_apart, output_file

_ABOUT = """\
Judge a network on labelled images. Classifiers: a folder with a folder for each class (or with val/
in it), in the style of ImageNet. ImageNet-V2, whose folders are numbers, is understood. Folders are
matched to the network's classes by name, so a part of the classes will do. Detectors: a folder in
COCO's layout, for COCO's twelve numbers. Segmenters: a folder in ADE20K's layout, for mIoU, mAcc
and aAcc. The checkpoint says what it holds."""
_EXAMPLES = """\
  transxnet eval --data imagenet --checkpoint transx-t.pth.tar
  transxnet eval --data imagenetv2-matched-frequency-format-val --checkpoint transx-b.pth.tar
  transxnet eval --data photos/val --checkpoint runs/first --per-class
  transxnet eval --data photos/val --checkpoint first.onnx
  transxnet eval --data coco --checkpoint maskrcnn_tiny.pth --results detections.json
  transxnet eval --data ade20k --checkpoint sfpn_transxnet_tiny.pth --per-class
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, judge and print."""
    parser = CommandParser("eval", _ABOUT, _EXAMPLES)
    parser.add_argument("--data", type=str, required=True, help='the images; also "digits" or "scenes"')
    add_network_arguments(parser)
    parser.add_argument("--per_class", action="store_true", help="print the accuracy of each class too")
    parser.add_number("--max_bad", Share, default=0.01, help="share of the images that may be unreadable")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--results", type=str, help="a detector's: write every detection to a JSON file, as COCO has it"
    )
    add_force(parser)
    options = parser.parse(arguments)
    if options.results is not None:
        options.results = output_file(options.results, inputs=[options.checkpoint or ""], force=options.force)
        check_apart(options.results, [options.data])
    model = open_network(options)
    if hasattr(model, "head_description"):
        from transxnet.cli.dense_commands import evaluate as evaluate_dense  # with their libraries

        return evaluate_dense(model, options)
    source = open_evaluation(options.data, label_names(model) or None, model.num_classes)
    device = choose_device(options.device)
    with image_progress() as progress:
        task = progress.add_task("evaluating", total=len(source.targets))
        outputs = run_network(
            model,
            source,
            batch_size=options.batch_size,
            workers=options.workers,
            max_bad=options.max_bad,
            device=device,
            advance=lambda count: progress.advance(task, count),
        )
    judged = evaluate(outputs)
    names = readable_names(model)
    if options.json:
        sys.stdout.write(_as_json(judged, names, options.per_class) + "\n")
    else:
        _print(judged, names, options.per_class, device)
    return 0


def _print(judged: Evaluation, names: list[str], per_class: bool, device: str) -> None:
    console = table_console()
    if per_class:
        table = Table("class", "images", "top-1", box=None)
        for name, count, share in zip(names, judged.counts, judged.per_class, strict=True):
            if share is not None:
                table.add_row(escape(name), str(count), f"{share:.1%}")
        console.print(table)
    for name, reason in judged.bad.items():
        console.print(f"left out {name}: {reason}", markup=False)
    top5 = f"   top-5 {judged.top5:.2%}" if judged.top5 is not None else ""
    speed = f"{judged.images_per_second:.1f} images/s through the network ({device})"
    console.print(f"top-1 {judged.top1:.2%}{top5}   {judged.images} images   {speed}")


def _as_json(judged: Evaluation, names: list[str], per_class: bool) -> str:
    result: dict[str, object] = {
        "top1": judged.top1,
        "top5": judged.top5,
        "images": judged.images,
        "images_per_second": judged.images_per_second,
        "bad_images": judged.bad,
    }
    if per_class:
        result["per_class"] = {
            name: {"images": count, "top1": share}
            for name, count, share in zip(names, judged.counts, judged.per_class, strict=True)
            if share is not None
        }
    return json.dumps(result, indent=2)
