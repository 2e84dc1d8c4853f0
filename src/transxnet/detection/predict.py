"""A detector's predictions for images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from transxnet.data.sources import ImageSource, loaded
from transxnet.data.transfers import to_host
from transxnet.dense.detection_transform import Target
from transxnet.dense.protocol import Detector


@dataclass(frozen=True)
class Finding:
    """The detections of one image.

    Attributes:
        name: The image's file, or its name.
        image: The image; None if it could not be read.
        found: ``boxes`` (n, 4) in its pixels, ``scores`` and ``labels`` (n), perhaps ``masks`` (n, H, W).
        error: Why it could not be read; empty otherwise.
    """

    name: str
    image: Image.Image | None
    found: Target
    error: str = ""


def predict(model: Detector, source: ImageSource, *, device: str = "cpu") -> Iterator[Finding]:
    """Detect objects in images, one after the other; unreadable ones do not stop the others.

    Args:
        model: The detector; it is put into evaluation mode, on ``device``.
        source: The images; their targets are not used.
        device: PyTorch's name of a device.
    """
    model.eval().to(device)
    for name, image, error in loaded(source):
        if image is None:
            yield Finding(name, None, {}, error)
            continue
        with torch.inference_mode():
            (found,) = model([V.pil_to_tensor(image).to(device)])
        yield Finding(name, image, to_host(found))


def confident(found: Target, minimum: float) -> Target:
    """The detections with a minimum score."""
    keep = found["scores"] >= minimum
    count = int(keep.sum())
    chosen = slice(count) if keep[:count].all() else keep  # detectors sort by score, and a slice copies no masks
    return {name: values[chosen].cpu() for name, values in found.items()}
