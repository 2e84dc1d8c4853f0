"""``transxnet predict``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from transxnet.bounds import Answers, Share
from transxnet.classification.predict import Prediction, predict
from transxnet.cli.parsing import (
    CommandParser,
    add_force,
    add_network_arguments,
    choose_device,
    image_progress,
    open_network,
)
from transxnet.cli.streams import note, table_console
from transxnet.data.images import expand
from transxnet.errors import ConfigError
from transxnet.files import write_text
from transxnet.output_paths import output_file

_ABOUT = """\
Say what is on images, and with a detector or segmenter, where. Files, folders (searched through)
and glob patterns are taken. An unreadable image is named and the others go on; the exit status is
then 1."""
_EXAMPLES = """\
  transxnet predict cat.jpg dog.png --checkpoint transx-t.pth.tar
  transxnet predict photos 'more/*.jpg' --checkpoint runs/first --out answers.csv
  transxnet predict photos --checkpoint runs/first --top 1 --json
  transxnet predict photos --checkpoint first.onnx --runtime openvino
  transxnet predict photos --checkpoint maskrcnn_tiny.pth --out answers
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, predict and print; returns 1 if an image could not be read."""
    parser = CommandParser("predict", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet predict IMAGE [IMAGE ...] [options]"
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="files, folders and glob patterns")
    add_network_arguments(parser)
    parser.add_number("--top", Answers, default=3, help="answers for each image")
    parser.add_argument("--out", type=str, help="write the answers too: a classifier's to a .json or .csv file; a "
                        "detector's or segmenter's, with pictures, to a folder")  # fmt: skip
    parser.add_number("--min_score", Share, default=0.5, help="a detector's: score from which it is shown")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_force(parser)
    options = parser.parse(arguments)
    if options.out is not None and Path(options.out).suffix not in ("", ".json", ".csv"):
        raise ConfigError(f"--out ends in .json or .csv, or is a folder, not {options.out}")
    paths = expand(options.images)
    model = open_network(options)
    if hasattr(model, "head_description"):
        from transxnet.cli.dense_commands import predict as predict_dense  # with their libraries

        return predict_dense(model, paths, options)
    if options.out is not None and Path(options.out).suffix not in (".json", ".csv"):
        raise ConfigError(f"--out ends in .json or .csv, not {options.out}")
    inputs = [*paths, options.checkpoint or ""]
    out = output_file(options.out, inputs=inputs, force=options.force) if options.out is not None else None
    with image_progress() as progress:
        task = progress.add_task("predicting", total=len(paths))
        predictions = predict(
            model,
            paths,
            top=options.top,
            batch_size=options.batch_size,
            workers=options.workers,
            device=choose_device(options.device),
            advance=lambda count: progress.advance(task, count),
        )
    if out:
        write_text(out, _as_csv(predictions) if out.suffix == ".csv" else _as_json(predictions))
    if options.json:
        sys.stdout.write(_as_json(predictions))
    else:
        _print(predictions)
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        note(f"cannot read {prediction.path}: {prediction.error}")
    return 1 if failed else 0


def _print(predictions: Sequence[Prediction]) -> None:
    width = max((len(prediction.classes) for prediction in predictions), default=0)
    table = Table("image", *("answer" if place == 0 else "" for place in range(width)), box=None, pad_edge=False)
    for prediction in predictions:
        answers = zip(prediction.classes, prediction.probabilities, strict=True)
        cells = [f"{escape(name)} [dim]{probability:.1%}[/dim]" for name, probability in answers]
        if not prediction.error:
            table.add_row(escape(prediction.path), *cells)
    if table.rows:
        table_console().print(table)


def _as_json(predictions: Sequence[Prediction]) -> str:
    rows = [
        {"image": prediction.path, "error": prediction.error}
        if prediction.error
        else {
            "image": prediction.path,
            "answers": [
                {"class": name, "probability": probability}
                for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
            ],
        }
        for prediction in predictions
    ]
    return json.dumps(rows, indent=2) + "\n"


def _as_csv(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability", "error"])
    for prediction in predictions:
        if prediction.error:
            writer.writerow([prediction.path, "", "", "", prediction.error])
        for rank, answer in enumerate(zip(prediction.classes, prediction.probabilities, strict=True), start=1):
            writer.writerow([prediction.path, rank, answer[0], f"{answer[1]:.6f}", ""])
    return text.getvalue()
