"""``transxnet.Predictor``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transxnet.api.batches import Request, detections_of, predict_batch, segmentation_of
from transxnet.api.networks import Checkpoint, TaskName, open_network, task_of
from transxnet.api.preparation import Preparation, Prepared
from transxnet.api.results import Classification, Detections, Prediction, Segmentation
from transxnet.bounds import Answers, BatchSize, Share, Workers, checked
from transxnet.classification.labels import readable_names
from transxnet.classification.predict import predict as classify
from transxnet.data.images.pixel_values import from_array
from transxnet.data.images.reading import BadImageError, as_rgb, read_image
from transxnet.data.loader import Advance
from transxnet.errors import ConfigError, DataError
from transxnet.files import user_path
from transxnet.inference.description import Format
from transxnet.inference.precision import Fusion, Precision, precision_of

ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
"""A file, a Pillow image, an array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of floats from 0 to 1.

Arrays and tensors for a network of other input channels may have as many bands instead of three.
"""


class Predictor:
    """Classifies images, or finds objects in them, or segments them: as ``transxnet predict`` does.

    A predictor can be pickled: the network is opened again, from the same file, where it is unpickled.

    Args:
        checkpoint: A released file, a file or run folder of ours, an exported file, or a URL.
        model: Name of the network; without a checkpoint, its released weights are downloaded.
        image_size: Side in pixels of a classifier's square images, if not the network's own.
        device: PyTorch's name of a device; "auto" for the GPU, if there is one.
        fuse: Fold what can be folded and, on a CPU, use native kernels: a wheel's, or compiled by a C++ compiler;
            "fold" does without these. By default on a GPU only.
        precision: "32", "bf16", or "auto" for bfloat16 on a GPU that has it and float32 elsewhere.
        runtime: Runtime of an exported file, if not the one it was written for.
        batch_size: Images of a classifier's step; detectors and segmenters take one at a time.
        workers: Processes that read a classifier's images.
        top: Number of classes that a classifier gives for each image.
        min_score: Minimum score of a detector's objects.

    Attributes:
        network: The network, or an exported file that is called in the same way.
        precision: Type that it computes in, such as "float32"; probabilities are computed in float32.
        task: "classification", "detection" or "segmentation".
        class_names: Names of the classes.
        channels: Number of bands of the images that the network takes.
        category_ids: A detector's id of each class in COCO's results format.
        head: A detector's or segmenter's head, with names and colours of the classes; None for a classifier.

    Raises:
        CheckpointError: If the network cannot be read.
        ConfigError: If a setting is out of range, or settings do not go together.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        model: str | None = None,
        image_size: int | None = None,
        device: str = "auto",
        fuse: Fusion = None,
        precision: Precision = "auto",
        runtime: Format | None = None,
        batch_size: int = 32,
        workers: int = 0,
        top: int = 3,
        min_score: float = 0.5,
    ) -> None:
        self.batch_size: int = checked("batch_size", batch_size, BatchSize)
        self.workers: int = checked("workers", workers, Workers)
        self.top: int = checked("top", top, Answers)
        self.min_score: float = checked("min_score", min_score, Share)
        self._opened_with: dict[str, Any] = {
            "checkpoint": _absolute(checkpoint),
            "model": model,
            "image_size": image_size,
            "device": device,
            "fuse": fuse,
            "precision": precision,
            "runtime": runtime,
        }
        self.network, self.device = open_network(**self._opened_with)
        self.precision = precision_of(self.network)
        self.task: TaskName = task_of(self.network)
        if self.task == "classification" and not self.network.num_classes:
            raise ConfigError(f"{checkpoint or model} holds a network without a classifier, which predicts nothing")
        self.channels: int = _channels(self.network) if self.task == "classification" else 3
        self.head = None
        if self.task != "classification":
            from transxnet.data.known_classes import known_classes

            self.head = known_classes(self.network.head_description)
        names = self.head.label_names if self.head else readable_names(self.network)
        self.class_names: tuple[str, ...] = tuple(names)
        self.category_ids = self.head.category_ids if self.head else ()
        if self.head and not self.category_ids:
            self.category_ids = tuple(range(1, self.head.num_classes + 1))

    def __getstate__(self) -> dict[str, Any]:
        names = ("batch_size", "workers", "top", "min_score")
        return {**self._opened_with, **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...
    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[Prediction]: ...
    def __call__(self, images: Any) -> Any:
        """Predict for one image or several.

        Args:
            images: An image (see :data:`ImageLike`) or a list of images.

        Returns:
            A :class:`Classification`, :class:`Detections` or :class:`Segmentation`; a list of them for a list.

        Raises:
            DataError: If an image cannot be used; :meth:`stream` goes on with the others.
        """
        several = isinstance(images, list | tuple)
        predictions = []
        for prediction, _ in self.stream(images if several else [images]):
            if prediction.error:
                raise BadImageError(prediction.image, prediction.error)
            predictions.append(prediction)
        return predictions if several else predictions[0]

    def stream(
        self,
        images: Sequence[ImageLike],
        advance: Advance = lambda count: None,
        *,
        sizes: Sequence[tuple[int, int] | None] | None = None,
    ) -> Iterator[tuple[Prediction, Image.Image | None]]:
        """Predictions one by one, in order; one for an unreadable image has an ``error``.

        Args:
            images: The images.
            advance: Called with the number of images just processed.
            sizes: Width and height that each file is annotated in: one of that size as it is stored is not turned into
                the camera's orientation.

        Yields:
            The prediction and, for detectors and segmenters, the image, None if it is unreadable.

        Raises:
            DataError: If an image is neither a file nor of a kind that :data:`ImageLike` names.
        """
        source = GivenImages(images, self.channels, sizes)
        if self.task == "classification":
            for one in classify(
                self.network, source, top=self.top, batch_size=self.batch_size, workers=self.workers,
                device=self.device, advance=advance,
            ):  # fmt: skip
                yield Classification(one.name, tuple(one.classes), tuple(one.probabilities), one.error), None
            return
        for found in self._detect(source) if self.task == "detection" else self._segment(source):
            advance(1)
            yield found

    @property
    def preparation(self) -> Preparation:
        """Makes images ready for :meth:`predict_prepared`, in this process or another."""
        if self.head is not None:
            return Preparation(None, 3, self.head)
        return Preparation(vars(self.network)["pretrained_cfg"], self.channels)

    def predict_prepared(self, images: Sequence[Prepared]) -> list[Prediction]:
        """Predict for images of one group, in one step of the network.

        Args:
            images: Images that :attr:`preparation` made ready, of one :attr:`Prepared.group`.

        Returns:
            As calling the predictor gives for each.
        """
        return [prediction for prediction, _ in predict_batch(self, images, [Request()] * len(images))]

    def _detect(self, source: GivenImages) -> Iterator[tuple[Detections, Image.Image | None]]:
        from transxnet.detection.predict import predict

        for one in predict(self.network, source, device=self.device):
            if one.error:
                nothing = torch.empty(0)
                yield Detections(one.name, (), nothing, nothing, nothing, error=one.error), None
                continue
            yield detections_of(self, one.name, one.found, self.min_score), one.image

    def _segment(self, source: GivenImages) -> Iterator[tuple[Segmentation, Image.Image | None]]:
        from transxnet.segmentation.predict import predict

        for one in predict(self.network, source, device=self.device):
            if one.classes is None:
                yield Segmentation(one.name, error=one.error), None
                continue
            yield segmentation_of(self, one.name, one.classes), one.image


class GivenImages:
    """Images of any kind as an :class:`~transxnet.data.sources.ImageSource` without classes.

    Args:
        images: The images.
        channels: Number of bands that arrays and tensors may have instead of three.
        sizes: As of :meth:`Predictor.stream`.

    Raises:
        DataError: If one is of no such kind.
    """

    class_names: Sequence[str] = ()

    def __init__(
        self,
        images: Sequence[ImageLike],
        channels: int = 3,
        sizes: Sequence[tuple[int, int] | None] | None = None,
    ) -> None:
        self.sizes = sizes
        self.images = [_plain(image, f"image {index}", (3, channels)) for index, image in enumerate(images)]
        self.targets: Sequence[int] = [0] * len(self.images)

    def name(self, index: int) -> str:
        image = self.images[index]
        return str(image) if isinstance(image, Path) else f"image {index}"

    def load(self, index: int) -> Image.Image:
        image = self.images[index]
        if not isinstance(image, Path):
            return as_rgb(self.name(index), image)
        size = self.sizes[index] if self.sizes is not None else None
        if size is not None and (stored := read_image(image, rotate=False)).size == size:
            return stored
        return read_image(image)


def _plain(image: Any, name: str, channels: tuple[int, int]) -> Path | Image.Image:
    """A path, or an image as Pillow's; raises DataError for any other kind."""
    if isinstance(image, str | os.PathLike):
        return user_path(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        return _from_bands(_bands_of_tensor(image, name, channels))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        bands = image[:, :, None] if image.ndim == 2 and 1 in channels else image
        if bands.ndim == 3 and bands.shape[2] in channels:
            return _from_bands(bands)
    given = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else f"of type {type(image).__name__}"
    raise DataError(
        f"{name} is {given}: give a path, a Pillow image, an array (H, W, {channels[1]}) of uint8, or a tensor "
        f"({channels[1]}, H, W)"
    )


def _bands_of_tensor(image: Tensor, name: str, channels: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[0] not in channels or not image.numel():
        raise DataError(f"{name} is a tensor of shape {tuple(image.shape)}, not ({channels[1]}, H, W)")
    values = image.detach().cpu()
    if values.is_floating_point():
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise DataError(f"{name} has values outside 0 to 1: give pixels, which the predictor normalises itself")
        values = (values.float() * 255).round().byte()
    if values.dtype != torch.uint8:
        raise DataError(f"{name} is a tensor of {values.dtype}, not of uint8 or floats from 0 to 1")
    bands: npt.NDArray[np.uint8] = values.permute(1, 2, 0).contiguous().numpy()
    return bands


def _from_bands(bands: npt.NDArray[np.uint8]) -> Image.Image:
    """An image of an array (H, W, C)."""
    return from_array(bands, 1 if bands.shape[2] < 3 else 3)


def _channels(network: Any) -> int:
    """Input channels of a classifier, or of an exported one."""
    channels: int = getattr(network, "in_chans", None) or vars(network)["pretrained_cfg"]["input_size"][0]
    return channels


def _absolute(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """A path that means the same in another process's folder; URLs as they are."""
    if checkpoint is None or "://" in os.fspath(checkpoint):
        return checkpoint
    return user_path(checkpoint).absolute()
