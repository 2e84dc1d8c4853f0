"""Detected objects next to the ground truth."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as V

from transxnet.data.coco.opening import CocoSource
from transxnet.data.images.reading import BadImageError
from transxnet.data.known_classes import known_classes
from transxnet.dense.protocol import Detector
from transxnet.detection.predict import confident
from transxnet.plotting.overlays import draw_objects
from transxnet.plotting.overlays import save_sheet as sheet

SHOWN_FROM = 0.5
"""Score from which a detection is drawn."""

_ROWS, _PAIRS = 4, 2
_MASK_BYTES = 2**30  # of an image's ground truth masks, which are coarser where they would take more


def save_sheet(model: Detector, source: CocoSource, path: Path, title: str) -> None:
    """Draw ground truth and detections of a few images, spread over the source.

    Args:
        model: The detector.
        source: The images and their objects.
        path: File of the sheet.
        title: Title above the pictures.
    """
    head = known_classes(model.head_description)
    device = next(model.parameters()).device
    pictures = []
    for index in torch.linspace(0, len(source) - 1, min(_ROWS * _PAIRS, len(source))).long().tolist():
        try:
            image, instances = source.upright(index)
        except BadImageError:
            continue  # was reported
        truth = {"boxes": instances.boxes, "labels": instances.labels}
        if head.predicts_masks:
            height, width = instances.size
            share = math.sqrt(min(1.0, _MASK_BYTES / max(1, len(instances.labels) * height * width)))
            truth["masks"] = instances.masks((math.ceil(height * share), math.ceil(width * share)), empty=True)
        with torch.inference_mode():
            (found,) = model.eval()([V.pil_to_tensor(image).to(device)])
        detected = confident(found, SHOWN_FROM)
        pictures += [draw_objects(image, each, head.label_names, head.colors) for each in (truth, detected)]
    sheet(pictures, ["truth", f"found, {SHOWN_FROM:.0%} and above"] * _PAIRS, title, path)
