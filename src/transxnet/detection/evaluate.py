"""Running a detector over images, and COCO's average precision."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from transxnet.data.coco.opening import CocoSource
from transxnet.data.coco.orientation import Turn, inverse, turned_boxes, turned_masks
from transxnet.data.loader import Advance, BadImages, make_loader
from transxnet.data.transfers import to_host
from transxnet.dense.detection_transform import Target
from transxnet.dense.protocol import Detector
from transxnet.detection.batches import DetectionBatch, EvaluationImages, collate
from transxnet.detection.results import as_results

SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers: precision at overlaps of 0.5 to 0.95, of 0.5, of 0.75; for small, medium and
large objects; then recall with 1, 10 and 100 detections an image, and by size."""


@dataclass(frozen=True)
class Precision:
    """Average precision and recall of boxes or masks.

    Attributes:
        scores: COCO's twelve numbers, shares of 1; None for one that the images have no objects for.
        per_class: AP and AP50 of each class; None for one without objects.
    """

    scores: dict[str, float | None]
    per_class: list[tuple[float, float] | None]


@dataclass(frozen=True)
class Evaluation:
    """Result of evaluating a detector.

    Attributes:
        images: Number of images evaluated.
        box: Precision of the boxes.
        mask: Precision of the masks; None for a detector without.
        results: Every detection, in COCO's results format.
        images_per_second: Through the network, reading excluded.
        bad: Name and reason of each image that could not be used.
    """

    images: int
    box: Precision
    mask: Precision | None
    results: list[dict[str, Any]]
    images_per_second: float
    bad: dict[str, str]

    @property
    def main(self) -> Precision:
        """The masks' precision if there are masks, else the boxes'."""
        return self.mask or self.box


def evaluate(
    model: Detector,
    source: CocoSource,
    *,
    workers: int = 0,
    max_bad: float = 1.0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Detect on every image of a source, each once and by itself, and evaluate the detections.

    Images go through the network one by one, as in the released evaluation: padding
    up to other images would change normalisation and attention.

    Args:
        model: The detector; it is put into evaluation mode, on ``device``.
        source: The images and their objects.
        workers: Processes that read images.
        max_bad: Share of the images that may be unreadable.
        device: PyTorch's name of a device.
        advance: Called with the number of images after each.

    Raises:
        DataError: If more images than that are unreadable.
    """
    loader = make_loader(EvaluationImages(source), 1, workers=workers, collate=collate)
    bad = BadImages(len(source), max_bad)
    model.eval().to(device)
    results: list[dict[str, Any]] = []
    evaluated: list[int] = []
    seconds = 0.0
    for batch in loader:
        bad.add(batch.bad)
        if len(batch.images):
            started = time.perf_counter()
            with torch.inference_mode():
                detected = model([image.to(device, non_blocking=True) for image in batch.images])
            found = [to_host(one) for one in detected]  # waits for a GPU, so that the clock is right
            results += coco_results(found, batch, source)
            seconds += time.perf_counter() - started
            evaluated += batch.indices.tolist()
        advance(len(batch.images) + len(batch.bad))
    box = precision(source, evaluated, results, "bbox")
    masks = any("segmentation" in result for result in results) or model.head_description.predicts_masks
    some = len(source.without_mask) < int((~source.annotations.crowds).sum())
    mask = precision(source, evaluated, results, "segm") if masks and some else None
    return Evaluation(len(evaluated), box, mask, results, len(evaluated) / max(seconds, 1e-9), bad.reasons)


def coco_results(found: Sequence[Target], batch: DetectionBatch, source: CocoSource) -> list[dict[str, Any]]:
    """Detections in COCO's results format: x, y, width, height; the data set's ids; masks run-length encoded.

    They are in the pixels of the images as annotated.

    Args:
        found: A detector's output.
        batch: The images, of :class:`~transxnet.detection.batches.EvaluationImages`.
        source: Knows the ids.
    """
    results = []
    for detections, target, image, index in zip(
        found, batch.targets, batch.images, batch.indices.tolist(), strict=True
    ):
        if "turn" in target:
            detections = _turned_back(detections, (image.shape[1], image.shape[2]), Turn(int(target["turn"])))
        results += as_results(detections, source.images[index].id, source.category_ids)
    return results


def _turned_back(found: Target, size: tuple[int, int], turn: Turn) -> Target:
    """Detections in an image of a height and width, as it was before it was turned."""
    back = inverse(turn)
    changed = {"boxes": turned_boxes(found["boxes"], size, back)}
    if "masks" in found:
        changed["masks"] = turned_masks(found["masks"], back)
    return found | changed


def precision(
    source: CocoSource, indices: Sequence[int], results: Sequence[dict[str, Any]], kind: Literal["bbox", "segm"]
) -> Precision:
    """COCO's average precision and recall, as pycocotools computes it.

    Masks are evaluated on the images all of whose objects have one.

    Args:
        source: The images and their objects.
        indices: Indices of the images that were evaluated.
        results: The detections, in COCO's results format.
        kind: Whether to compare boxes or masks.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if kind == "segm":
        bare = source.images_without_mask()
        indices = [index for index in indices if index not in bare]
    if not len(indices):
        return Precision(dict.fromkeys(SCORES), [None] * len(source.category_ids))
    truth = COCO(source.ground_truth(), print_function=_silent)
    # The library changes its input; for boxes it must not see the masks.
    left_out = "bbox" if kind == "segm" else "segmentation"
    rows = [copy.copy({name: value for name, value in row.items() if name != left_out}) for row in results]
    evaluation = COCOeval_faster(truth, truth.loadRes(rows), kind, print_function=_silent)
    evaluation.params.imgIds = [source.images[index].id for index in indices]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = dict(zip(SCORES, map(_share, evaluation.stats[: len(SCORES)]), strict=True))
    table = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, classes), all sizes, 100 detections
    per_class = [_class_precision(table[:, :, index]) for index in range(len(source.category_ids))]
    return Precision(scores, per_class)


def _share(value: float) -> float | None:
    """A score; None for COCO's -1, which stands for no objects."""
    return None if value < 0 else float(value)


def _class_precision(table: np.ndarray[Any, Any]) -> tuple[float, float] | None:
    """AP and AP50 of a class from its precision (overlaps, recalls)."""
    if (table < 0).all():
        return None
    return float(table[table > -1].mean()), float(table[0][table[0] > -1].mean())


def _silent(*words: object) -> None:
    """Print nothing: the results are printed elsewhere."""
