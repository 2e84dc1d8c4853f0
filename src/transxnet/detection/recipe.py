"""Recipe of a detection run: every setting that decides its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from transxnet.bounds import BatchSize, DropRate, Epochs, ImageSide, LearningRate, Regions, WeightDecay
from transxnet.data.coco.opening import Crowds
from transxnet.data.dense_transforms import DetectionAugmentation
from transxnet.dense.registry import network_class
from transxnet.errors import ConfigError
from transxnet.training.dense import DenseRecipe

WithoutMask = Literal["refuse", "boxes-only", "boxes_only"]
"""Use of objects without a mask by a detector that learns masks."""


@dataclass(frozen=True)
class DetectionRecipe(DenseRecipe):
    """Settings of training on images with boxes, and masks for Mask R-CNN.

    `data` is "scenes" (embedded) or a folder in COCO's layout: annotations/*train*.json and
    *val*.json with their image folders, train/ and valid/ with an _annotations.coco.json each, or
    as annotation tools export it.
    The default numbers are the released "1x" schedule.

    Attributes:
        detector: "retinanet", "mask_rcnn", or the name of a registered detector.
        short: Length in pixels to which an image's shorter side is resized.
        long: Maximum length of the longer side; the aspect ratio is kept.
        same_aspect: Whether batches hold either portrait or landscape images, which need less padding.
        proposals: Regions of an image that Mask R-CNN's first stage proposes, in training and afterwards.
        regions: Regions of an image that train Mask R-CNN's second stage.
        crowds: "ignore" leaves annotations with `iscrowd: 1` out of training, and out of the scores as COCO
            does; "as-objects" takes them as objects, for tools that mark masks of single objects so.
        without_mask: Objects without a mask, for a detector that learns masks: "refuse" them, or
            "boxes-only" leaves them out of the loss of the masks.
        augmentation: Augmentation of training images.
    """

    task: ClassVar[str] = "detection"

    data: str = "scenes"
    epochs: Epochs = 12
    batch_size: BatchSize = 2
    lr: LearningRate = 1e-4
    weight_decay: WeightDecay = 1e-4
    drop_path: DropRate = 0.1
    detector: str = "retinanet"
    short: ImageSide = 800
    long: ImageSide = 1333
    same_aspect: bool = True
    proposals: Regions = 1000
    regions: Regions = 512
    crowds: Crowds = "ignore"
    without_mask: WithoutMask = "refuse"
    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crowds", "without_mask"):  # one spelling, so that equal recipes are equal
            object.__setattr__(self, name, getattr(self, name).replace("_", "-"))
        network_class(self.detector, "detection")  # raises ConfigError if there is none
        if self.long < self.short:
            raise ConfigError(f"long must be at least short ({self.short}), not {self.long}")

    @property
    def predicts_masks(self) -> bool:
        """Whether the detector learns masks too."""
        return network_class(self.detector).predicts_masks

    @property
    def subject(self) -> str:
        return f"{self.detector} with {self.backbone}"

    @property
    def memory_note(self) -> str:
        return f" of {self.short} x {self.long}"
