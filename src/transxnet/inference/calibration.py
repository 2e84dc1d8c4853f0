"""A user's images for quantisation, and the accuracy on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from transxnet.classification.evaluate import evaluate
from transxnet.classification.labels import label_names
from transxnet.data.images import BadImageError, find_images
from transxnet.data.sources import DIGITS, FolderSource, ImageSource, open_data, open_evaluation
from transxnet.data.splits import TRAIN, part_folder
from transxnet.data.transforms import evaluation_transform
from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import DataError
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Calibration:
    """Images that a network is quantised by.

    Attributes:
        source: The images.
        labelled: Images for evaluation, labelled with the network's classes; None if there are none.
        reason: Why there are none.
    """

    source: ImageSource
    labelled: ImageSource | None
    reason: str = ""

    def images(self, model: nn.Module, count: int) -> Iterator[Tensor]:
        """Up to ``count`` images (1, C, H, W) spread over the source, made ready as the network wants them.

        Raises:
            DataError: If none of them can be used.
        """
        prepare = _preparation(model)
        total, used = len(self.source.targets), 0
        first = BadImageError("", "")
        for index in torch.linspace(0, total - 1, min(count, total)).long().tolist():
            try:
                image = self.source.load(index)
            except BadImageError as error:
                first = first if first.path else error
                continue
            used += 1
            yield prepare(image)
        if not used:
            raise DataError(f"none of the images to calibrate with can be used; the first is {first}")


def open_calibration(data: str, model: nn.Module) -> Calibration:
    """The images that a name stands for.

    Args:
        data: "digits", or a folder of images, perhaps with a folder for each class, perhaps in train/ and val/.
        model: The network.

    Raises:
        DataError: If there are no images.
    """
    if data == DIGITS:
        digits = open_data(DIGITS)
        fits = isinstance(model, TransXNet) and model.num_classes == len(digits.train.class_names)
        return Calibration(digits.train, digits.validation if fits else None, "its classes are not the digits")
    root = Path(data).expanduser()
    if not root.is_dir():
        raise DataError(f"the calibration folder {root} {'is a file' if root.exists() else 'does not exist'}")
    paths = find_images(part_folder(root, TRAIN) or root)
    if not paths:
        raise DataError(f"the calibration folder {root} holds no image")
    labelled, reason = None, "it is measured for classifiers only"
    if isinstance(model, TransXNet):
        try:
            labelled = open_evaluation(data, label_names(model) or None, model.num_classes)
        except DataError as error:
            reason = str(error)
    return Calibration(FolderSource((), paths, [0] * len(paths)), labelled, reason)


def accuracy(model: Any, source: ImageSource) -> float:
    """Top-1 accuracy of a classifier.

    Args:
        model: A classifier, or an exported one.
        source: The images.
    """
    return evaluate(model, source).top1


def _preparation(model: nn.Module) -> Any:
    """From an image to what the network takes, (1, C, H, W)."""
    if isinstance(model, DenseNetwork):
        return lambda image: model.prepared(V.pil_to_tensor(image))
    transform = evaluation_transform(getattr(model, "pretrained_cfg", {}))

    def prepare(image: Image.Image) -> Tensor:
        return transform(image)[None]

    return prepare
