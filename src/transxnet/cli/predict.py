"""``transxnet predict``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.markup import escape
from rich.table import Table

from transxnet.api.prediction import Predictor
from transxnet.api.results import Classification, Detections, Prediction, Segmentation
from transxnet.bounds import Answers, Share
from transxnet.cli.parsing import CommandParser, add_force, add_network_arguments, image_progress, network_settings
from transxnet.cli.streams import note, table_console
from transxnet.data.images import expand
from transxnet.data.segmentation_encoding import label_picture
from transxnet.errors import ConfigError
from transxnet.files import replacing, user_path, write_text
from transxnet.output_paths import check_not_inputs, output_file, output_folder

_ABOUT = """\
Classify, detect or segment images, by what the checkpoint holds. Give files, folders (searched
recursively) and glob patterns. Unreadable images are reported and the others predicted; the exit
status is then 1."""
_EXAMPLES = """\
  transxnet predict cat.jpg dog.png --checkpoint transx-t.pth.tar
  transxnet predict photos 'more/*.jpg' --checkpoint runs/first --out answers.csv
  transxnet predict photos --checkpoint runs/first --top 1 --json
  transxnet predict photos --checkpoint first.onnx --runtime openvino
  transxnet predict photos --checkpoint maskrcnn_tiny.pth --out answers
"""
_FILES = (".json", ".csv")
_LISTED = 6  # classes or objects of an image in a line


def run(arguments: Sequence[str]) -> int:
    """Parse, predict and print; returns 1 if an image could not be read."""
    options = _parser().parse(arguments)
    if options.out is not None and Path(options.out).suffix not in ("", *_FILES):
        raise ConfigError(f"--out ends in .json or .csv, or is a folder, not {options.out}")
    paths = expand(options.images)
    predictor = Predictor(top=options.top, min_score=options.min_score, **network_settings(options))
    classifies = predictor.task == "classification"
    out = None
    if options.out is not None:
        out = _answers_file(paths, options) if classifies else _picture_folder(paths, options)
    names = _picture_names(paths)
    predictions: list[Prediction] = []
    with image_progress() as bar:
        task = bar.add_task("predicting", total=len(paths))
        for prediction, image in predictor.stream(paths, lambda count: bar.advance(task, count)):
            if out is not None and image is not None:
                _draw(predictor, prediction, image, out, names[len(predictions)])
            predictions.append(_without_pixels(prediction))
    if out is not None:
        _write(predictions, out)
    rows = [prediction.to_dict() for prediction in predictions]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(predictions)
        if out is None and not classifies:
            note("--out FOLDER writes pictures, and the predictions as files")
    failed = [prediction for prediction in predictions if prediction.error]
    for one in failed:
        note(f"cannot read {one.image}: {one.error}")
    return 1 if failed else 0


def _parser() -> CommandParser:
    parser = CommandParser("predict", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet predict IMAGE [IMAGE ...] [options]"
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="files, folders and glob patterns")
    add_network_arguments(parser)
    parser.add_number("--top", Answers, default=3, help="of a classifier: number of classes for each image")
    parser.add_argument("--out", type=str, help="write the predictions too: a classifier's to a .json or .csv file; a "
                        "detector's or segmenter's, with pictures, to a folder")  # fmt: skip
    parser.add_number("--min_score", Share, default=0.5, help="of a detector: minimum score of an object")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_force(parser)
    return parser


def _answers_file(paths: Sequence[Path], options: Any) -> Path:
    if Path(options.out).suffix not in _FILES:
        raise ConfigError(f"--out ends in .json or .csv, not {options.out}")
    return output_file(options.out, inputs=[*paths, options.checkpoint or ""], force=options.force)


def _picture_folder(paths: Sequence[Path], options: Any) -> Path:
    """The folder for pictures; it holds none of the images, since the next run would take pictures for images."""
    out = user_path(options.out)
    if out.suffix in _FILES or out.is_file():
        raise ConfigError(f"--out is a folder for pictures here, not {options.out}")
    folders = [path for path in map(user_path, options.images) if path.is_dir()]
    target = output_folder(out, inputs=[*folders, *paths], force=options.force)
    pictures = [target / folder / f"{name}.png" for name in _picture_names(paths) for folder in ("", "labels")]
    check_not_inputs([*pictures, target / "detections.json"], [*paths, options.checkpoint or ""])
    return target


def _draw(predictor: Predictor, prediction: Prediction, image: Image.Image, out: Path, name: str) -> None:
    from transxnet.plotting.overlays import draw_classes, draw_objects, save_picture

    head = predictor.head
    assert head is not None
    if isinstance(prediction, Detections):
        found = {"boxes": prediction.boxes, "labels": prediction.labels, "scores": prediction.scores}
        found |= {} if prediction.masks is None else {"masks": prediction.masks}
        save_picture(draw_objects(image, found, head.label_names, head.colors), out / f"{name}.png")
    elif isinstance(prediction, Segmentation) and prediction.classes is not None:
        classes = prediction.classes
        save_picture(draw_classes(image, classes, head.label_names, head.colors), out / f"{name}.png")
        values = label_picture(classes.numpy(), head.label_values, head.num_classes, head.reduce_zero_label)
        with replacing(out / "labels" / f"{name}.png") as temporary:
            Image.fromarray(values).save(temporary)


def _write(predictions: Sequence[Prediction], out: Path) -> None:
    """Write a classifier's predictions into a file, a detector's into its folder."""
    if out.suffix == ".csv":
        write_text(out, _as_csv(predictions))
    elif out.suffix == ".json":
        write_text(out, json.dumps([one.to_dict() for one in predictions], indent=2) + "\n")
    elif any(isinstance(one, Detections) for one in predictions):
        found = [one for one in predictions if isinstance(one, Detections)]
        rows = [{**row, "file_name": one.image} for one in found for row in one.coco]
        write_text(out / "detections.json", json.dumps(rows))


def _as_csv(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability", "error"])
    for one in predictions:
        if one.error:
            writer.writerow([one.image, "", "", "", one.error])
        elif isinstance(one, Classification):
            for rank, (name, share) in enumerate(zip(one.classes, one.probabilities, strict=True), start=1):
                writer.writerow([one.image, rank, name, f"{share:.6f}", ""])
    return text.getvalue()


def _print(predictions: Sequence[Prediction]) -> None:
    found = [one for one in predictions if not one.error]
    if not found:
        return
    if isinstance(found[0], Classification):
        width = max(len(one.classes) for one in found if isinstance(one, Classification))
        table = Table("image", "answer", *[""] * (width - 1), box=None, pad_edge=False)
    else:
        table = Table("image", "prediction", box=None, pad_edge=False)
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


def _picture_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's picture: its own, with a number where several files share one."""
    taken: dict[str, int] = {}
    names = []
    for path in paths:
        taken[path.stem] = taken.get(path.stem, 0) + 1
        names.append(path.stem if taken[path.stem] == 1 else f"{path.stem}-{taken[path.stem]}")
    return names
