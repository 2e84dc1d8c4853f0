"""A user's images for quantisation, and the accuracy on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from transxnet.classification.labels import label_names
from transxnet.data.images.reading import BadImageError, find_images
from transxnet.data.names import is_folder
from transxnet.data.sources import DIGITS, SCENES, FolderSource, ImageSource, open_data, open_evaluation
from transxnet.data.splits import TRAIN, part_folder
from transxnet.data.transforms import evaluation_transform
from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import ConfigError, DataError
from transxnet.extras import require
from transxnet.files import user_path
from transxnet.inference.adapters import ExportedNetwork
from transxnet.inference.detections import ExportedDetector
from transxnet.inference.runtimes import Runtime
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a network on annotated images.

    Attributes:
        metric: Its name for people, such as "top-1" or "box AP".
        measure: Measures it for a network or an exported one; None where it does not exist.
    """

    metric: str
    measure: Callable[[Any], float | None]

    def before_and_after(self, model: nn.Module, runtime: Runtime) -> tuple[float, float] | None:
        """The accuracy of a network and of its exported file; None where it does not exist."""
        detects = runtime.description.task == "detection"
        before = self.measure(model)
        after = self.measure(ExportedDetector(runtime) if detects else ExportedNetwork(runtime))
        return None if before is None or after is None else (before, after)


@dataclass(frozen=True)
class Calibration:
    """Images that a network is quantised by.

    Attributes:
        count: Number of images.
        load: Reads an image by its index.
        accuracy: The accuracy on those that are annotated with the network's classes; None if there are none.
        reason: Why there are none.
    """

    count: int
    load: Callable[[int], Image.Image]
    accuracy: Accuracy | None
    reason: str = ""

    def images(self, model: nn.Module, count: int) -> Iterator[Tensor]:
        """Up to ``count`` images (1, C, H, W) spread over all, made ready as the network wants them.

        Raises:
            DataError: If none of them can be used.
        """
        prepare = _preparation(model)
        used = 0
        first = BadImageError("", "")
        for index in torch.linspace(0, self.count - 1, min(count, self.count)).long().tolist():
            try:
                image = self.load(index)
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
        data: "digits" or "scenes", or a folder of images: for a classifier perhaps with a folder for each class, for
            a detector or segmenter perhaps annotated, perhaps in train/ and val/.
        model: The network.

    Raises:
        DataError: If there are no images.
    """
    reason = "the maps of a backbone have none"
    if isinstance(model, DenseNetwork):
        try:
            return _annotated(data, model)
        except (DataError, ConfigError) as error:
            reason = f"the images are not annotated for it ({error})"
    if data == DIGITS:
        digits = open_data(DIGITS)
        fits = isinstance(model, TransXNet) and model.num_classes == len(digits.train.class_names)
        return _of(digits.train, _top1(digits.validation) if fits else None, "its classes are not the digits")
    root = user_path(data)
    if not is_folder(root):
        raise DataError(f"the calibration folder {root} {'is a file' if root.exists() else 'does not exist'}")
    paths = find_images(part_folder(root, TRAIN) or root)
    if not paths:
        raise DataError(f"the calibration folder {root} holds no image")
    accuracy = None
    if isinstance(model, TransXNet):
        try:
            accuracy = _top1(open_evaluation(data, label_names(model) or None, model.num_classes))
        except DataError as error:
            reason = str(error)
    return _of(FolderSource((), paths, [0] * len(paths)), accuracy, reason)


def _of(source: ImageSource, accuracy: Accuracy | None, reason: str) -> Calibration:
    return Calibration(len(source.targets), source.load, accuracy, reason)


def _top1(source: ImageSource) -> Accuracy:
    from transxnet.classification.evaluate import evaluate

    return Accuracy("top-1", lambda model: evaluate(model, source).top1)


def _annotated(data: str, model: DenseNetwork) -> Calibration:
    """Annotated images for a detector or segmenter.

    Raises:
        TransXNetError: If the images have no annotations with the network's classes.
    """
    require("calibration with annotated images", "dense")
    from transxnet.data.known_classes import known_classes
    from transxnet.data.scenes import data_folder

    head = known_classes(model.head_description)
    folder = data if data != SCENES else data_folder(data)
    if head.task == "detection":
        return _with_objects(folder, head)
    return _with_pixels(folder, head)


def _with_objects(folder: str, head: Any) -> Calibration:
    from transxnet.data.coco.opening import open_coco
    from transxnet.detection.evaluate import evaluate

    data = open_coco(folder, classes=head.label_names, masks=head.predicts_masks)

    def measure(model: Any) -> float | None:
        found = evaluate(model, data.validation)
        score = (found.mask if head.predicts_masks and found.mask else found.box).scores["AP"]
        return score if score is not None and score >= 0 else None  # it does not exist without objects

    source = data.train or data.validation
    return Calibration(
        len(source),
        lambda index: source.upright(index)[0],
        Accuracy("mask AP" if head.predicts_masks else "box AP", measure),
    )


def _with_pixels(folder: str, head: Any) -> Calibration:
    from transxnet.data.masks.opening import open_segmentation
    from transxnet.segmentation.evaluate import evaluate

    data = open_segmentation(
        folder, reduce_zero_label=head.reduce_zero_label, classes=head.label_names, values=head.label_values
    )

    def measure(model: Any) -> float | None:
        return evaluate(model, data.validation).agreement.miou if data.validation.pixels.any() else None

    source = data.train or data.validation
    return Calibration(len(source), source.load, Accuracy("mIoU", measure))


def _preparation(model: nn.Module) -> Any:
    """From an image to what the network takes, (1, C, H, W)."""
    if isinstance(model, DenseNetwork):
        return lambda image: model.prepared(V.pil_to_tensor(image))
    transform = evaluation_transform(getattr(model, "pretrained_cfg", {}))

    def prepare(image: Image.Image) -> Tensor:
        return transform(image)[None]

    return prepare
