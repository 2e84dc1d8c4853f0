"""A detector's predictions for image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from transxnet.data.images import BadImageError, read_image
from transxnet.dense.detection_transform import Target
from transxnet.dense.protocol import Detector


@dataclass(frozen=True)
class Finding:
    """The detections of one image.

    Attributes:
        path: The file.
        image: The image; None if it could not be read.
        found: ``boxes`` (n, 4) in its pixels, ``scores`` and ``labels`` (n), perhaps ``masks`` (n, H, W).
        error: Why it could not be read; empty otherwise.
    """

    path: Path
    image: Image.Image | None
    found: Target
    error: str = ""


def predict(model: Detector, paths: Sequence[Path], *, device: str = "cpu") -> Iterator[Finding]:
    """Detect on image files, one after the other; unreadable ones do not stop the others.

    Args:
        model: The detector; it is put into evaluation mode, on ``device``.
        paths: The files.
        device: PyTorch's name of a device.
    """
    model.eval().to(device)
    for path in paths:
        try:
            image = read_image(path)
        except BadImageError as error:
            yield Finding(path, None, {}, error.reason)
            continue
        with torch.inference_mode():
            (found,) = model([V.pil_to_tensor(image).to(device)])
        yield Finding(path, image, {name: values.cpu() for name, values in found.items()})
