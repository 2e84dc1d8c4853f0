"""Evaluation of a segmenter by one confusion matrix of all pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from transxnet.data.loader import Advance, BadImages, make_loader
from transxnet.data.masks.opening import SegmentationSource
from transxnet.data.transfers import NetworkTime, to_network
from transxnet.dense.protocol import Segmenter
from transxnet.errors import DataError
from transxnet.segmentation.batches import EvaluationImages, collate
from transxnet.segmentation.predict import segmented

if TYPE_CHECKING:
    from transxnet.segmentation.confusion import PixelConfusion


@dataclass(frozen=True)
class Agreement:
    """Agreement of the pixels' classes with the truth.

    Attributes:
        miou: Mean over the classes of intersection over union; classes that are neither labelled
            nor predicted do not count.
        macc: Mean over the labelled classes of the share of their pixels that is right.
        aacc: Share of all pixels that is right.
        per_class: Intersection over union and share right of each class; None where there is no pixel.
    """

    miou: float
    macc: float
    aacc: float
    per_class: list[tuple[float | None, float | None]]


@dataclass(frozen=True)
class Evaluation:
    """Result of evaluating a segmenter.

    Attributes:
        images: Number of images evaluated.
        agreement: Scores over all their pixels.
        images_per_second: Through the network, reading excluded.
        bad: Name and reason of each image that could not be used.
    """

    images: int
    agreement: Agreement
    images_per_second: float
    bad: dict[str, str]


def agreement(table: Tensor) -> Agreement:
    """Scores of a confusion matrix (classes, classes) of pixels, with the truth in rows.

    Raises:
        DataError: If no pixel is labelled.
    """
    if not table.sum():
        raise DataError("no pixel of the images is labelled, so there is nothing to evaluate")
    table = table.double()
    right, labelled, predicted = table.diagonal(), table.sum(1), table.sum(0)
    union = labelled + predicted - right
    iou, accuracy = right / union, right / labelled  # NaN without such pixels
    return Agreement(
        float(iou.nanmean()),
        float(accuracy.nanmean()),
        float(right.sum() / table.sum()),
        [(_number(one), _number(other)) for one, other in zip(iou.tolist(), accuracy.tolist(), strict=True)],
    )


def confusion(num_classes: int, *, shared: bool = True) -> PixelConfusion:
    """Counts pixels (truth, prediction); if shared, several processes' counts are added up."""
    from transxnet.segmentation.confusion import PixelConfusion

    return PixelConfusion(num_classes, shared=shared)


def evaluate(
    model: Segmenter,
    source: SegmentationSource,
    *,
    workers: int = 0,
    max_bad: float = 1.0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Segment every image of a source, whole and by itself, and evaluate the classes at its own size.

    Args:
        model: The segmenter; it is put into evaluation mode, on ``device``.
        source: The images and their labels.
        workers: Processes that read images.
        max_bad: Share of the images that may be unreadable.
        device: PyTorch's name of a device.
        advance: Called with the number of images after each.

    Raises:
        DataError: If more images than that are unreadable.
    """
    head = model.head_description
    loader = make_loader(EvaluationImages(source, head.transform), 1, workers=workers, collate=collate)
    bad = BadImages(len(source), max_bad)
    model.eval().to(device)
    table = confusion(head.num_classes, shared=False).to(device)  # the other processes may be gone
    images, taken = 0, NetworkTime(device)
    for batch in loader:
        bad.add(batch.bad)
        if len(batch.indices):
            with torch.inference_mode(), taken.running():
                height, width = batch.labels.shape[1:]
                classes = segmented(model, to_network(batch.images, model, device), (height, width))
                table.update(classes, batch.labels.to(device, non_blocking=True))
            images += len(batch.indices)
        advance(len(batch.indices) + len(batch.bad))
    if not images:
        name, reason = next(iter(bad.reasons.items()))
        raise DataError(f"none of {len(source)} images can be used; the first is {name} ({reason})")
    return Evaluation(images, agreement(table.compute().cpu()), images / taken.seconds, bad.reasons)


def _number(value: float) -> float | None:
    return None if value != value else value
