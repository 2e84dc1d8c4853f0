"""The protocol of dense networks: a backbone under a head that detects objects or segments images."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from transxnet.checkpoints.released_dense import ReleasedNames
from transxnet.config import TransXNetConfig
from transxnet.dense.backbone import DenseBackbone
from transxnet.dense.detection_transform import DetectionTransform, Target
from transxnet.dense.export_form import ExportForm, PixelScores
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.input_checks import check_images, check_labelled, check_targets
from transxnet.dense.pixel_classes import segmentation_loss
from transxnet.dense.pyramid import PyramidBackbone, head_norm
from transxnet.dense.registry import Task
from transxnet.dense.segmentation_transform import SegmentationTransform
from transxnet.errors import CheckpointError

_INNER = "backbone.fpn.inner_blocks.0."  # a convolution, and its normalisation if it has one


class DenseNetwork(nn.Module, ABC):
    """Base class of detectors and segmenters.

    A network derives from :class:`Detector` or :class:`Segmenter` and is registered with
    :func:`~transxnet.dense.registry.register_dense_network`. It has its pyramid as ``backbone`` and the backbone
    as ``backbone.body``, so that checkpoints are recognised.

    Attributes:
        kind: The name that it is registered under.
        task: "detection" or "segmentation".
        class_weight: Name of the weight with a row, or a fixed number of rows, for each class. It also
            distinguishes this network's checkpoints from others.
        class_layers: Prefixes of the names of the weights that depend on the classes; that of
            ``class_weight`` if not given.
        title: Its name in messages; the class's if not given.
        out_indices: Stages of the backbone whose outputs it takes.
        predicts_masks: Whether a detector is trained on masks and returns them.
        sides: Bounds of an image's shorter and longer side in pixels, by default.
        mean: Mean of each channel that images are normalised with, of values from 0 to 1.
        std: Standard deviation of each channel, likewise.
        export_form: How it is exported.
        released_names: How the entries of its released files are renamed, if there are any.
        head_description: Description of the head, written to checkpoints.
        architecture: The backbone's registered name.
    """

    kind: ClassVar[str]
    task: ClassVar[Task]
    class_weight: ClassVar[str]
    class_layers: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    out_indices: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    predicts_masks: ClassVar[bool] = False
    sides: ClassVar[tuple[int, int]]
    mean: ClassVar[tuple[float, ...]] = IMAGENET_DEFAULT_MEAN
    std: ClassVar[tuple[float, ...]] = IMAGENET_DEFAULT_STD
    export_form: ClassVar[ExportForm]
    released_names: ClassVar[ReleasedNames | None] = None

    backbone: PyramidBackbone
    head_description: HeadDescription
    architecture: str

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "title" not in vars(cls):
            cls.title = cls.__name__
        if "class_weight" in vars(cls) and "class_layers" not in vars(cls):
            cls.class_layers = (cls.class_weight.rpartition(".")[0] + ".",)

    @classmethod
    @abstractmethod
    def build(cls, body: DenseBackbone, head: HeadDescription) -> Self:
        """The network that a head's description gives, around a backbone with ``out_indices``."""

    @classmethod
    def default_head(cls, num_classes: int, pyramid_channels: int = 256, normalised: bool = False) -> HeadDescription:
        """The description of a head with this network's usual settings."""
        short, long = cls.sides
        return HeadDescription(cls.kind, num_classes, pyramid_channels, normalised, short=short, long=long)

    @classmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        """Whether weights under our names are this network's."""
        return cls.class_weight in weights

    @classmethod
    def classes_of(cls, rows: int) -> int:
        """The number of classes that so many rows of ``class_weight`` are for."""
        return rows

    @classmethod
    def describe_weights(cls, weights: Mapping[str, Tensor], source: str = "the state dict") -> HeadDescription:
        """The head that weights under our names have, by their shapes: a released file has no description.

        Args:
            weights: The weights.
            source: Where they were read from, for messages.

        Raises:
            CheckpointError: If the network cannot have such weights.
        """
        rows, channels = (_rows(weights.get(name)) for name in (cls.class_weight, f"{_INNER}0.weight"))
        classes = cls.classes_of(rows)
        if classes < 1 or channels < 1:
            raise CheckpointError(f"{source} does not hold the weights of a {cls.kind}")
        return cls.default_head(classes, channels, f"{_INNER}1.weight" in weights)

    @classmethod
    @abstractmethod
    def transform_for(cls, head: HeadDescription) -> Any:
        """How images are resized and normalised for the network, or for an exported one."""

    @abstractmethod
    def prepared(self, image: Tensor) -> Tensor:
        """An image (3, H, W), uint8, as the network takes it: (1, 3, H', W'), resized and normalised."""

    def describe(self) -> dict[str, Any]:
        """Architecture, configuration and head, as :func:`transxnet.save_model` writes them beside the weights."""
        return {
            "architecture": self.architecture,
            "config": self.config.to_dict(),
            "pretrained_cfg": {},
            "head": dataclasses.asdict(self.head_description),
        }

    @property
    def config(self) -> TransXNetConfig:
        """The backbone's configuration."""
        return self.backbone.body.config


class Detector(DenseNetwork):
    """A network that finds objects.

    Called with a list of images (3, H, W), uint8 or float from 0 to 1, of any sizes. In training it also takes
    targets (``boxes`` (n, 4) in pixels, ``labels`` (n) from 0, ``masks`` (n, H, W) if it predicts them, with
    ``has_mask`` (n) if only some objects have one) and returns a dictionary of losses.
    In evaluation it returns, for each image, ``boxes``, ``scores`` and ``labels``, best first, and perhaps
    ``masks`` (n, H, W), bool.

    Attributes:
        transform: Resizes images, makes batches of them, and brings detections back to the images' pixels.
    """

    task = "detection"
    sides = (800, 1333)

    transform: DetectionTransform
    _checked = False  # whether values of targets were checked

    @classmethod
    def transform_for(cls, head: HeadDescription) -> DetectionTransform:
        return DetectionTransform(head.short, head.long, cls.mean, cls.std)

    def prepared(self, image: Tensor) -> Tensor:
        batch: Tensor = self.transform([image])[0].tensors
        return batch

    def check_inputs(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> None:
        """Check images, and in training targets; a network calls it first.

        Raises:
            ValueError: If they are not as described above. On a GPU the targets' values are checked in the first call
                only, since reading them waits for the device.
        """
        check_images(images)
        if self.training:
            rows = self.get_parameter(self.class_weight).shape[0]
            values = images[0].device.type == "cpu" or not self._checked
            check_targets(images, targets, self.classes_of(rows), masks=self.predicts_masks, values=values)
            self._checked = True

    def sample_regions(self, count: int) -> None:
        """Set the number of regions of an image that train a second stage; ignored by networks without one."""


class Segmenter(DenseNetwork):
    """A network that scores every pixel: images (B, 3, H, W), normalised, to (B, num_classes, H, W).

    Args:
        backbone: Backbone and pyramid.
        num_classes: Classes.
    """

    task = "segmentation"
    sides = (512, 2048)
    export_form = PixelScores()

    def __init__(self, backbone: PyramidBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self._checked = False  # whether values of images and labels were checked

    @classmethod
    def build(cls, body: DenseBackbone, head: HeadDescription) -> Self:
        norm = head_norm if head.normalised else None
        return cls(PyramidBackbone(body, head.pyramid_channels, norm_layer=norm), head.num_classes)

    @classmethod
    def transform_for(cls, head: HeadDescription) -> SegmentationTransform:
        return SegmentationTransform(head.short, head.long, cls.mean, cls.std)

    def prepared(self, image: Tensor) -> Tensor:
        return self.transform_for(self.head_description)(image)[None]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the pixels' classes; a network with other outputs in training overrides it.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B, H, W), int64, class indices, 255 where there is none.

        Raises:
            ValueError: If they are not. On a GPU values are checked in the first call only, since reading them
                waits for the device.
        """
        check_values = images.device.type == "cpu" or not self._checked
        largest = max(max(mean, 1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        check_labelled(images, labels, self.num_classes, largest, values=check_values)
        self._checked = True
        return segmentation_loss(self(images).float(), labels)


def _rows(tensor: Tensor | None) -> int:
    return tensor.shape[0] if tensor is not None and tensor.ndim else 0
