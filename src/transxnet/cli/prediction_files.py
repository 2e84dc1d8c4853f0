"""Files that ``transxnet predict`` writes: tables, results and pictures."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from transxnet.api.prediction import Predictor
from transxnet.api.results import Classification, Detections, Prediction, Segmentation
from transxnet.data.masks.encoding import label_picture
from transxnet.detection.image_ids import ImageIds
from transxnet.files import MAX_NAME_BYTES, replacing, write_text
from transxnet.text import unicode_text

LABELS = "labels"
"""Folder of a segmenter's label images."""

DETECTIONS = "detections.json"
"""Name of a detector's results."""


def picture_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's picture, without its suffix: the file's path below the folder that all files share.

    Files of one folder that differ in their suffixes alone keep these, and one whose picture would replace another
    or a label image gets a number.
    """
    folders = [os.path.abspath(path.parent) for path in paths]  # noqa: PTH100 (links stay as they are given)
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # on several drives
        common = ""
    stems = Counter((folder, _plain(path.stem)) for folder, path in zip(folders, paths, strict=True))
    taken: set[str] = set()
    names = []
    for folder, path in zip(folders, paths, strict=True):
        below = Path(os.path.relpath(folder, common)) if common else Path(*Path(folder).parts[1:])
        for name in _candidates(path.stem if stems[folder, _plain(path.stem)] == 1 else path.name):
            outputs = {_plain(str(below / name)), _plain(str(LABELS / below / name))}
            if not outputs & taken:
                break
        taken |= outputs
        names.append(str(below / name))
    return names


def _candidates(name: str) -> Iterator[str]:
    """A name, and the name with numbers from 2 on."""
    longest = MAX_NAME_BYTES - len(".png")
    yield _shortened(name, longest)
    for number in itertools.count(2):
        end = f"-{number}"
        yield _shortened(name, longest - len(end)) + end


def _shortened(name: str, size: int) -> str:
    return os.fsdecode(os.fsencode(name)[:size])


def _plain(name: str) -> str:
    """A name as file systems compare it that ignore case and composition."""
    return unicodedata.normalize("NFC", name).casefold()


def outputs_of(names: Sequence[str], out: Path) -> list[Path]:
    """Every file that may be written into a folder."""
    return [*(out / folder / f"{name}.png" for name in names for folder in ("", LABELS)), out / DETECTIONS]


def draw(predictor: Predictor, prediction: Prediction, image: Image.Image, out: Path, name: str) -> None:
    """Write a detector's or segmenter's picture, and a segmenter's labels."""
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
        labels = label_picture(classes.numpy(), head.label_values, head.num_classes, head.reduce_zero_label)
        with replacing(out / LABELS / f"{name}.png") as temporary:
            Image.fromarray(labels).save(temporary)


def write_table(predictions: Sequence[Prediction], out: Path) -> None:
    """Write a classifier's predictions as CSV or JSON, by the file's suffix."""
    if out.suffix == ".csv":
        write_text(out, _as_csv(predictions))
    else:
        write_text(out, json.dumps([one.to_dict() for one in predictions], indent=2) + "\n")


def _as_csv(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability", "error"])
    for one in predictions:
        if one.error:
            writer.writerow([unicode_text(one.image), "", "", "", one.error])
        elif isinstance(one, Classification):
            for rank, (name, share) in enumerate(zip(one.classes, one.probabilities, strict=True), start=1):
                writer.writerow([unicode_text(one.image), rank, unicode_text(name), f"{share:.6f}", ""])
    return text.getvalue()


class ResultIds:
    """Ids of a detector's results: those of an annotation file, else the images' paths and the network's categories.

    Args:
        paths: The images.
        predictor: The detector.
        known: The annotation file's ids, if there is one.

    Attributes:
        sizes: Width and height that each image is annotated in; None where they are not known.
        remarks: On ids that the file lacks, one sentence each.

    Raises:
        DataError: If the file lists none of the images, or one of them for several.
    """

    def __init__(self, paths: Sequence[Path], predictor: Predictor, known: ImageIds | None) -> None:
        self.remarks: list[str] = []
        self._images = [unicode_text(str(path)) for path in paths] if known is None else known.of_images(paths)
        self._categories: dict[int, int] = {}
        self.sizes = [None if known is None else known.size(one) for one in self._images]
        if known is None:
            return
        if missing := [str(path) for path, one in zip(paths, self._images, strict=True) if one is None]:
            self.remarks.append(
                f"{known.source} does not list {len(missing)} of {len(paths)} images, such as {missing[0]}: "
                f"{DETECTIONS} has no results for them"
            )
        if absent := [name for name in predictor.class_names if name not in known.categories]:
            self.remarks.append(
                f"{known.source} has no category {absent[0]!r}: the results have the network's category ids"
            )
        else:
            own = predictor.category_ids
            self._categories = {
                number: known.categories[name] for number, name in zip(own, predictor.class_names, strict=True)
            }

    def results(self, index: int, found: Detections) -> list[dict[str, Any]]:
        """The results of an image with their ids; none for an image without an id."""
        if self._images[index] is None:
            return []
        categories = self._categories
        return [
            {
                **row,
                "image_id": self._images[index],
                "category_id": categories.get(row["category_id"], row["category_id"]),
            }
            for row in found.coco
        ]
