"""``transxnet eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from transxnet.api.evaluation import evaluate
from transxnet.api.results import ClassificationScores, DetectionScores, SegmentationScores
from transxnet.bounds import Share
from transxnet.cli.parsing import (
    CommandParser,
    add_crowds,
    add_force,
    add_network_arguments,
    choose_device,
    image_progress,
    network_settings,
)
from transxnet.cli.streams import note, table_console
from transxnet.console import Table, escape
from transxnet.files import write_text
from transxnet.inference.runtimes import is_exported
from transxnet.output_paths import check_apart, output_file
from transxnet.text import counted, percent

_ABOUT = """\
Evaluate a network on labelled images. Classifiers: a folder with a folder for each class (or with
val/ in it), in the style of ImageNet; also ImageNet-V2, whose folders are numbers. Folders are
matched to the network's classes by name, so a part of the classes will do. Detectors: a folder in
COCO's layout, for COCO's twelve numbers. Segmenters: a folder in ADE20K's layout, for mIoU, mAcc
and aAcc. The checkpoint decides which of them."""
_EXAMPLES = """\
  transxnet eval --data imagenet --checkpoint transx-t.pth.tar
  transxnet eval --data imagenetv2-matched-frequency-format-val --checkpoint transx-b.pth.tar
  transxnet eval --data photos/val --checkpoint runs/first --per-class
  transxnet eval --data photos/val --checkpoint first.onnx
  transxnet eval --data coco --checkpoint maskrcnn_tiny.pth --results detections.json
  transxnet eval --data ade20k --checkpoint sfpn_transxnet_tiny.pth --per-class
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, evaluate and print."""
    parser = CommandParser("eval", _ABOUT, _EXAMPLES)
    parser.add_argument("--data", type=str, required=True, help='the images; also "digits" or "scenes"')
    add_network_arguments(parser)
    parser.add_argument("--per_class", action="store_true", help="print the scores of each class too")
    add_crowds(parser)
    parser.add_number("--max_bad", Share, default=0.01, help="maximum share of unreadable images")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--results", type=str, help="of a detector: write every detection to a JSON file, in COCO's results format"
    )
    add_force(parser)
    options = parser.parse(arguments)
    results = None
    if options.results is not None:
        results = output_file(options.results, inputs=[options.checkpoint or ""], force=options.force)
        check_apart(results, [options.data])
    with image_progress() as bar:
        task = bar.add_task("evaluating", total=None)
        scores = evaluate(
            data=options.data,
            max_bad=options.max_bad,
            crowds=options.crowds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **network_settings(options),
        )
    if results is not None and isinstance(scores, DetectionScores):
        write_text(results, json.dumps(scores.detections))
    if options.json:
        sys.stdout.write(json.dumps(scores.to_dict(per_class=options.per_class), indent=2) + "\n")
    elif isinstance(scores, ClassificationScores):
        _print_classification(scores, options.per_class, _device(options))
    elif isinstance(scores, DetectionScores):
        _print_detection(scores, options.per_class)
    else:
        _print_segmentation(scores, options.per_class)
    return 0


def _device(options: Any) -> str:
    exported = options.checkpoint and is_exported(options.checkpoint)  # these run on the processor
    return "cpu" if exported else choose_device(options.device)


def _print_classification(scores: ClassificationScores, per_class: bool, device: str) -> None:
    console = table_console()
    for finding in scores.findings:
        note(f"data: {finding}")
    if per_class:
        table = Table("class", "images", "top-1", box=None)
        for one in scores.per_class:
            table.add_row(escape(one.name), str(one.images), f"{one.top1:.1%}")
        console.print(table)
    for name, reason in scores.bad_images.items():
        console.print(f"left out {name}: {reason}", markup=False)
    top5 = f"   top-5 {scores.top5:.2%}" if scores.top5 is not None else ""
    ran = device if scores.precision == "float32" else f"{device}, {scores.precision}"
    speed = f"{scores.images_per_second:.1f} images/s through the network ({ran})"
    console.print(f"top-1 {scores.top1:.2%}{top5}   {counted(scores.images, 'image')}   {speed}")


def _print_detection(scores: DetectionScores, per_class: bool) -> None:
    console = table_console()
    _print_remarks(scores)
    table = Table("", *scores.box.scores, box=None, pad_edge=False)
    for kind, precision in scores.precisions.items():
        table.add_row(kind, *map(percent, precision.scores.values()))
    console.print(table)
    if per_class:
        columns = [f"{kind} {score}" for kind in scores.precisions for score in ("AP", "AP50")]
        table = Table("class", *columns, box=None)
        for label, name in enumerate(scores.class_names):
            rows = [precision.per_class[label] for precision in scores.precisions.values()]
            if any(row is not None for row in rows):
                table.add_row(escape(name), *(percent(share) for row in rows for share in row or (None, None)))
        console.print(table)
    console.print(f"{counted(scores.images, 'image')}   {scores.images_per_second:.1f} images/s through the network")


def _print_segmentation(scores: SegmentationScores, per_class: bool) -> None:
    console = table_console()
    _print_remarks(scores)
    if per_class:
        table = Table("class", "IoU", "accuracy", box=None)
        for name, row in zip(scores.class_names, scores.per_class, strict=True):
            table.add_row(escape(name), *map(percent, row))
        console.print(table)
    shares = f"mIoU {scores.miou:.2%}   mAcc {scores.macc:.2%}   aAcc {scores.aacc:.2%}"
    console.print(
        f"{shares}   {counted(scores.images, 'image')}   {scores.images_per_second:.1f} images/s through the network"
    )


def _print_remarks(scores: DetectionScores | SegmentationScores) -> None:
    for finding in scores.findings:
        note(f"data: {finding}")
    for name, reason in scores.bad_images.items():
        note(f"left out {name}: {reason}")
