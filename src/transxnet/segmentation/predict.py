"""A segmenter's predictions for images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from transxnet.data.sources import ImageSource, loaded
from transxnet.dense.anchors import at_least_float32
from transxnet.dense.pixel_classes import classes_of
from transxnet.dense.protocol import Segmenter


@dataclass(frozen=True)
class Map:
    """The classes of one image's pixels.

    Attributes:
        name: The image's file, or its name.
        image: The image; None if it could not be read.
        classes: (H, W), the class of each pixel; None likewise.
        error: Why it could not be read; empty otherwise.
    """

    name: str
    image: Image.Image | None
    classes: Tensor | None
    error: str = ""


def predict(model: Segmenter, source: ImageSource, *, device: str = "cpu") -> Iterator[Map]:
    """Segment images, one after the other; unreadable ones do not stop the others.

    Args:
        model: The segmenter; it is put into evaluation mode, on ``device``.
        source: The images; their targets are not used.
        device: PyTorch's name of a device.
    """
    model.eval().to(device)
    for name, image, error in loaded(source):
        if image is None:
            yield Map(name, None, None, error)
            continue
        yield Map(name, image, classes_in(model, image))


def classes_in(model: Segmenter, image: Image.Image) -> Tensor:
    """The class of each pixel (H, W) of an image of any size."""
    ready = model.head_description.transform(V.pil_to_tensor(image))
    with torch.inference_mode():
        device = next(model.parameters(), torch.empty(0)).device  # an exported file has none
        return segmented(model.eval(), ready[None].to(device), (image.height, image.width))[0].cpu()


def segmented(model: Segmenter, images: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel of an original image. Shapes: (1, 3, H, W), normalised, to (1, *size)."""
    return classes_of(at_least_float32(model(images)), size)
