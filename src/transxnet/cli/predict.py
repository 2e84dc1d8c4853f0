"""``transxnet predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transxnet.api.prediction import Predictor
from transxnet.api.results import Classification, Detections, Prediction, Segmentation
from transxnet.bounds import Answers, Share
from transxnet.cli.parsing import CommandParser, add_force, add_network_arguments, image_progress, network_settings
from transxnet.cli.prediction_files import DETECTIONS, ResultIds, draw, outputs_of, picture_names, write_table
from transxnet.cli.streams import note, table_console
from transxnet.console import Column, Table, escape
from transxnet.data.images.reading import expand
from transxnet.detection.image_ids import read_image_ids
from transxnet.errors import ConfigError
from transxnet.extras import require
from transxnet.files import user_path, write_text
from transxnet.output_paths import check_not_inputs, output_file, output_folder
from transxnet.text import unicode_text

_ABOUT = """\
Classify, detect or segment images, by what the checkpoint holds. Give files, folders (searched
recursively) and glob patterns. Unreadable images are reported and the others predicted; the exit
status is then 1."""
_EXAMPLES = """\
  transxnet predict cat.jpg dog.png --checkpoint transx-t.pth.tar
  transxnet predict photos 'more/*.jpg' --checkpoint runs/first --out answers.csv
  transxnet predict photos --checkpoint runs/first --top 1 --json
  transxnet predict photos --checkpoint first.onnx --runtime openvino
  transxnet predict photos --checkpoint maskrcnn_tiny.pth --out answers --min-score 0.05
  transxnet predict coco/val2017 --checkpoint maskrcnn_tiny.pth --data coco --out answers
"""
_FILES = (".json", ".csv")
_LISTED = 6  # classes or objects of an image in a line


def run(arguments: Sequence[str]) -> int:
    """Parse, predict and print; returns 1 if an image could not be read."""
    options = _parser().parse(arguments)
    if options.out is not None and Path(options.out).suffix not in ("", *_FILES):
        raise ConfigError(f"--out ends in .json or .csv, or is a folder, not {options.out}")
    paths = expand(options.images)
    known = None if options.data is None else read_image_ids(options.data)
    predictor = Predictor(top=options.top, min_score=options.min_score, **network_settings(options))
    classifies = predictor.task == "classification"
    if known is not None and predictor.task != "detection":
        raise ConfigError("--data gives the image ids of a detector's results; leave it out")
    ids = ResultIds(paths, predictor, known) if predictor.task == "detection" else None
    names = picture_names(paths)
    out = None
    if options.out is not None:
        out = _answers_file(paths, options) if classifies else _picture_folder(paths, names, options)
    predictions: list[Prediction] = []
    results: list[dict[str, Any]] = []
    with image_progress() as bar:
        task = bar.add_task("predicting", total=len(paths))
        sizes = None if ids is None else ids.sizes
        for prediction, image in predictor.stream(paths, lambda count: bar.advance(task, count), sizes=sizes):
            if ids is not None and isinstance(prediction, Detections):
                prediction = replace(prediction, coco=ids.results(len(predictions), prediction))
                results += [{**row, "file_name": unicode_text(prediction.image)} for row in prediction.coco]
            if out is not None and image is not None:
                draw(predictor, prediction, image, out, names[len(predictions)])
            predictions.append(_without_pixels(prediction))
    if out is not None and classifies:
        write_table(predictions, out)
    elif out is not None and ids is not None:
        write_text(out / DETECTIONS, json.dumps(results))
    if options.json:
        sys.stdout.write(json.dumps([prediction.to_dict() for prediction in predictions], indent=2) + "\n")
    else:
        _print(predictions)
        if out is None and not classifies:
            note("--out FOLDER writes pictures, and the predictions as files")
    for remark in ids.remarks if ids is not None else ():
        note(remark)
    failed = [prediction for prediction in predictions if prediction.error]
    for one in failed:
        note(f"cannot read {one.image}: {one.error}")
    return 1 if failed else 0


def _parser() -> CommandParser:
    parser = CommandParser("predict", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet predict IMAGE [IMAGE ...] [options]"
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="files, folders and glob patterns")
    add_network_arguments(parser)
    parser.add_argument("--data", "--annotations", type=str, metavar="PATH", help="of a detector: an annotation file "
                        "in COCO's format, or a folder with one, whose ids of images and categories the results get "
                        "(default: the images' paths, the network's categories)")  # fmt: skip
    parser.add_number("--top", Answers, default=3, help="of a classifier: number of classes for each image")
    parser.add_argument("--out", type=str, help="write the predictions too: a classifier's to a .json or .csv file; a "
                        "detector's or segmenter's, with pictures, to a folder")  # fmt: skip
    parser.add_number(
        "--min_score", Share, default=0.5, help="of a detector: minimum score of an object, in every output"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_force(parser)
    return parser


def _answers_file(paths: Sequence[Path], options: Any) -> Path:
    if Path(options.out).suffix not in _FILES:
        raise ConfigError(f"--out ends in .json or .csv, not {options.out}")
    return output_file(options.out, inputs=[*paths, options.checkpoint or ""], force=options.force)


def _picture_folder(paths: Sequence[Path], names: Sequence[str], options: Any) -> Path:
    """The folder for pictures; it holds none of the images, since the next run would take pictures for images."""
    out = user_path(options.out)
    if out.suffix in _FILES or out.is_file():
        raise ConfigError(f"--out is a folder for pictures here, not {options.out}")
    require('"transxnet predict --out" with pictures', "dense", "matplotlib")
    folders = [path for path in map(user_path, options.images) if path.is_dir()]
    target = output_folder(out, inputs=[*folders, *paths], force=options.force)
    check_not_inputs(outputs_of(names, target), [*paths, options.checkpoint or "", options.data or ""])
    return target


def _print(predictions: Sequence[Prediction]) -> None:
    found = [one for one in predictions if not one.error]
    if not found:
        return
    if isinstance(found[0], Classification):
        width = max(len(one.classes) for one in found if isinstance(one, Classification))
        heads = ["answer", *[""] * (width - 1)]
    else:
        heads = ["prediction"]
    table = Table(Column("image", overflow="fold"), *heads, box=None, pad_edge=False)
    for one in found:
        table.add_row(escape(one.image), *_cells(one))
    table_console().print(table)


def _cells(prediction: Prediction) -> list[str]:
    if isinstance(prediction, Classification):
        shares = zip(prediction.classes, prediction.probabilities, strict=True)
        return [f"{escape(name)} [dim]{share:.1%}[/dim]" for name, share in shares]
    if isinstance(prediction, Detections):
        parts = list(zip(prediction.classes, prediction.scores.tolist(), strict=True))
    else:
        parts = list(prediction.shares.items())
    text = ", ".join(f"{escape(name)} [dim]{share:.0%}[/dim]" for name, share in parts[:_LISTED])
    more = f" and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return [(text or "nothing") + more]


def _without_pixels(prediction: Prediction) -> Prediction:
    """Drop masks and maps, which take memory for every image."""
    if isinstance(prediction, Detections):
        return replace(prediction, masks=None)
    return replace(prediction, classes=None) if isinstance(prediction, Segmentation) else prediction
