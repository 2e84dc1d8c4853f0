"""A segmenter's predictions for image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from transxnet.data.images import BadImageError, read_image
from transxnet.dense.protocol import Segmenter
from transxnet.segmentation.sample_sheet import classes_in


@dataclass(frozen=True)
class Map:
    """The classes of one image.

    Attributes:
        path: The file.
        image: The image; None if it could not be read.
        classes: (H, W), the class of each pixel; None likewise.
        error: Why it could not be read; empty otherwise.
    """

    path: Path
    image: Image.Image | None
    classes: Tensor | None
    error: str = ""


def predict(model: Segmenter, paths: Sequence[Path], *, device: str = "cpu") -> Iterator[Map]:
    """Segment image files, one after the other; unreadable ones do not stop the others.

    Args:
        model: The segmenter; it is put into evaluation mode, on ``device``.
        paths: The files.
        device: PyTorch's name of a device.
    """
    model.eval().to(device)
    for path in paths:
        try:
            image = read_image(path)
        except BadImageError as error:
            yield Map(path, None, None, error.reason)
            continue
        yield Map(path, image, classes_in(model, image))
