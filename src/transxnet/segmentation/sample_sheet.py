"""Predicted classes next to the ground truth."""

from __future__ import annotations

from pathlib import Path

import torch

from transxnet.data.images.reading import BadImageError
from transxnet.data.known_classes import known_classes
from transxnet.data.masks.opening import SegmentationSource
from transxnet.dense.protocol import Segmenter
from transxnet.plotting.overlays import draw_classes
from transxnet.plotting.overlays import save_sheet as sheet
from transxnet.segmentation.predict import classes_in

_ROWS, _PAIRS = 4, 2


def save_sheet(model: Segmenter, source: SegmentationSource, path: Path, title: str) -> None:
    """Draw ground truth and predictions of a few images, spread over the source.

    Args:
        model: The segmenter.
        source: The images and their labels.
        path: File of the sheet.
        title: Title above the pictures.
    """
    head = known_classes(model.head_description)
    pictures = []
    for index in torch.linspace(0, len(source) - 1, min(_ROWS * _PAIRS, len(source))).long().tolist():
        try:
            image, truth = source.load(index), source.labels(index)
        except BadImageError:
            continue  # was reported
        both = (truth, classes_in(model, image))
        pictures += [draw_classes(image, classes, head.label_names, head.colors) for classes in both]
    sheet(pictures, ["truth", "answer"] * _PAIRS, title, path)
