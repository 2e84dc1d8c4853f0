"""``transxnet eval`` and ``transxnet predict`` for detectors and segmenters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from rich.markup import escape
from rich.table import Table

from transxnet.cli.parsing import choose_device, image_progress
from transxnet.cli.streams import note, table_console
from transxnet.data.coco import open_coco
from transxnet.data.scenes import data_folder
from transxnet.data.segmentation import open_segmentation
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.protocol import Detector, Segmenter
from transxnet.detection.evaluate import SCORES, Precision, as_results
from transxnet.detection.evaluate import evaluate as evaluate_detector
from transxnet.detection.predict import predict as detect
from transxnet.detection.sample_sheet import confident
from transxnet.errors import ConfigError
from transxnet.files import replacing, user_path, write_text
from transxnet.output_paths import check_not_inputs, output_folder
from transxnet.plotting.overlays import draw_classes, draw_objects, save_picture
from transxnet.segmentation.evaluate import evaluate as evaluate_segmenter
from transxnet.segmentation.predict import predict as segment
from transxnet.training.dense import known_classes

Judged = TypeVar("Judged")

_LISTED = 6  # classes or objects of an image in a line


def evaluate(model: Any, options: Any) -> int:
    """Judge a detector or a segmenter on the data set that the options name, and print."""
    judge = _judge_segmenter if model.head_description.task == "segmentation" else _judge_detector
    return judge(model, known_classes(model.head_description), options)


def _judge_detector(model: Detector, head: HeadDescription, options: Any) -> int:
    masks = head.predicts_masks
    source = open_coco(data_folder(options.data), classes=head.label_names, masks=masks).validation
    judged = _judged(evaluate_detector, model, source, options)
    if options.results:
        write_text(options.results, json.dumps(judged.results))
    result: dict[str, Any]
    kinds = {"box": judged.box} | ({"mask": judged.mask} if judged.mask else {})
    if options.json:
        result = {name: _numbers(found, head, options.per_class) for name, found in kinds.items()}
        result |= {"images": judged.images, "images_per_second": judged.images_per_second, "bad_images": judged.bad}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return 0
    console = table_console()
    _tell(judged.bad, source.findings.lines())
    table = Table("", *SCORES, box=None, pad_edge=False)
    for name, found in kinds.items():
        table.add_row(name, *(_share(value) for value in found.scores.values()))
    console.print(table)
    if options.per_class:
        table = Table("class", *(f"{name} {score}" for name in kinds for score in ("AP", "AP50")), box=None)
        for label, name in enumerate(head.label_names):
            rows = [found.per_class[label] for found in kinds.values()]
            if rows[0] is not None:
                table.add_row(escape(name), *(f"{share:.1%}" for row in rows for share in row or ()))
        console.print(table)
    console.print(f"{judged.images} images   {judged.images_per_second:.1f} images/s through the network")
    return 0


def _judge_segmenter(model: Segmenter, head: HeadDescription, options: Any) -> int:
    root = data_folder(options.data)
    source = open_segmentation(root, reduce_zero_label=head.reduce_zero_label, classes=head.label_names).validation
    judged = _judged(evaluate_segmenter, model, source, options)
    found = judged.agreement
    scores = {"mIoU": found.miou, "mAcc": found.macc, "aAcc": found.aacc}
    if options.json:
        result: dict[str, Any] = {**scores, "images": judged.images, "images_per_second": judged.images_per_second}
        if options.per_class:
            rows = zip(head.label_names, found.per_class, strict=True)
            result["per_class"] = {name: {"IoU": iou, "accuracy": accuracy} for name, (iou, accuracy) in rows}
        sys.stdout.write(json.dumps({**result, "bad_images": judged.bad}, indent=2) + "\n")
        return 0
    console = table_console()
    _tell(judged.bad, source.findings.lines())
    if options.per_class:
        table = Table("class", "IoU", "accuracy", box=None)
        for name, row in zip(head.label_names, found.per_class, strict=True):
            table.add_row(escape(name), *("" if share is None else f"{share:.1%}" for share in row))
        console.print(table)
    line = "   ".join(f"{name} {share:.2%}" for name, share in scores.items())
    console.print(f"{line}   {judged.images} images   {judged.images_per_second:.1f} images/s through the network")
    return 0


def _judged(judge: Callable[..., Judged], model: Any, source: Sized, options: Any) -> Judged:
    with image_progress() as progress:
        task = progress.add_task("evaluating", total=len(source))
        return judge(
            model,
            source,
            workers=options.workers,
            max_bad=options.max_bad,
            device=choose_device(options.device),
            advance=lambda count: progress.advance(task, count),
        )


def predict(model: Any, paths: Sequence[Path], options: Any) -> int:
    """Answer for image files, and print or write; returns 1 if one could not be read."""
    out = _picture_folder(paths, options) if options.out is not None else None
    head = known_classes(model.head_description)
    segments = head.task == "segmentation"
    answer = _segmented if segments else _detected
    rows: list[dict[str, Any]] = []
    failed = []
    with image_progress() as progress:
        task = progress.add_task("predicting", total=len(paths))
        for row in answer(model, head, paths, options, out):
            progress.advance(task)
            rows.append(row)
            if "error" in row:
                failed.append(row)
    if out is not None and not segments:
        results = [{**one, "file_name": row["image"]} for row in rows for one in row.get("results", ())]
        write_text(out / "detections.json", json.dumps(results))
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(rows)
        if out is None:
            note("--out FOLDER writes pictures, and what was found as files")
    for row in failed:
        note(f"cannot read {row['image']}: {row['error']}")
    return 1 if failed else 0


def _picture_folder(paths: Sequence[Path], options: Any) -> Path:
    """The folder for pictures, which none of the images lies in: the next time they would be taken for images."""
    out = user_path(options.out)
    if out.suffix in (".json", ".csv") or out.is_file():
        raise ConfigError(f"--out is a folder for pictures here, not {options.out}")
    folders = [path for path in map(user_path, options.images) if path.is_dir()]
    target = output_folder(out, inputs=[*folders, *paths], force=options.force)
    names = _free_names(paths)
    pictures = [target / folder / f"{name}.png" for name in names for folder in ("", "labels")]
    check_not_inputs([*pictures, target / "detections.json"], [*paths, options.checkpoint or ""])
    return target


def _detected(
    model: Detector, head: HeadDescription, paths: Sequence[Path], options: Any, out: Path | None
) -> Iterator[dict[str, Any]]:
    names = _free_names(paths)
    category_ids = head.category_ids or tuple(range(1, head.num_classes + 1))
    for number, answer in enumerate(detect(model, paths, device=choose_device(options.device))):
        if answer.image is None:
            yield {"image": str(answer.path), "error": answer.error}
            continue
        found = confident(answer.found, options.min_score)
        if out is not None:
            picture = draw_objects(answer.image, found, head.label_names, head.colors)
            save_picture(picture, out / f"{names[number]}.png")
        yield {
            "image": str(answer.path),
            "objects": [
                {"class": head.label_names[label], "score": score, "box": [round(side, 1) for side in box]}
                for label, score, box in zip(
                    found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
                )
            ],
            "results": as_results(answer.found, number + 1, category_ids),
        }


def _segmented(
    model: Segmenter, head: HeadDescription, paths: Sequence[Path], options: Any, out: Path | None
) -> Iterator[dict[str, Any]]:
    names = _free_names(paths)
    for number, answer in enumerate(segment(model, paths, device=choose_device(options.device))):
        if answer.image is None or answer.classes is None:
            yield {"image": str(answer.path), "error": answer.error}
            continue
        classes = answer.classes
        if out is not None:
            picture = draw_classes(answer.image, classes, head.label_names, head.colors)
            save_picture(picture, out / f"{names[number]}.png")
            labels = classes.byte() + head.reduce_zero_label  # as the data set's files have them
            with replacing(out / "labels" / f"{names[number]}.png") as temporary:
                Image.fromarray(labels.numpy()).save(temporary)
        counts = classes.flatten().bincount(minlength=head.num_classes)
        shares = (counts / counts.sum()).tolist()
        order = sorted(range(head.num_classes), key=lambda label: -shares[label])
        yield {
            "image": str(answer.path),
            "shares": {head.label_names[label]: shares[label] for label in order if shares[label]},
        }


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("image", "what is there", box=None, pad_edge=False)
    for row in rows:
        if "shares" in row:
            found = list(row["shares"].items())
        elif "objects" in row:
            found = [(one["class"], one["score"]) for one in row["objects"]]
        else:
            continue
        text = ", ".join(f"{escape(name)} [dim]{share:.0%}[/dim]" for name, share in found[:_LISTED])
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        table.add_row(escape(row["image"]), (text or "nothing") + more)
    if table.rows:
        table_console().print(table)


def _numbers(found: Precision, head: HeadDescription, per_class: bool) -> dict[str, Any]:
    numbers: dict[str, Any] = dict(found.scores)
    if per_class:
        rows = zip(head.label_names, found.per_class, strict=True)
        numbers["per_class"] = {name: {"AP": row[0], "AP50": row[1]} for name, row in rows if row is not None}
    return numbers


def _share(value: float) -> str:
    return "" if value < 0 else f"{value:.1%}"


def _tell(bad: dict[str, str], findings: Sequence[str]) -> None:
    for line in [f"data: {line}" for line in findings] + [f"left out {name}: {why}" for name, why in bad.items()]:
        note(line)


def _free_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's picture: its own, with a number where several files share one."""
    taken: dict[str, int] = {}
    names = []
    for path in paths:
        taken[path.stem] = taken.get(path.stem, 0) + 1
        names.append(path.stem if taken[path.stem] == 1 else f"{path.stem}-{taken[path.stem]}")
    return names
