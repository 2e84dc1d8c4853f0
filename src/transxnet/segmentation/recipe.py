"""Recipe of a segmentation run: every setting that decides its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from transxnet.bounds import BatchSize, DropRate, Epochs, LearningRate, Share, Steps, WeightDecay
from transxnet.data.dense_transforms import SegmentationAugmentation
from transxnet.dense.registry import network_class
from transxnet.training.dense import DenseRecipe


@dataclass(frozen=True)
class SegmentationRecipe(DenseRecipe):
    """Settings of training on images with a class for every pixel.

    `data` is "scenes" (embedded) or a folder in ADE20K's layout: images/ and annotations/ with
    training/ and validation/ (or train/, val/) in each, labels as PNG files of 8-bit class numbers.
    classes.txt in it may name the classes. The default numbers are the released 80,000 steps.

    Attributes:
        segmenter: "semantic_fpn", or the name of a registered segmenter.
        reduce_zero_label: Whether label 0 means "none", as in ADE20K, and class 0 is stored as 1.
        augmentation: Augmentation of training images, and the size that images are resized to.
    """

    task: ClassVar[str] = "segmentation"

    data: str = "scenes"
    epochs: Epochs = 10
    epoch_steps: Steps = 8000
    batch_size: BatchSize = 4
    lr: LearningRate = 2e-4
    weight_decay: WeightDecay = 1e-4
    drop_path: DropRate = 0.1
    schedule: Literal["steps", "cosine"] = "cosine"
    min_factor: Share = 1e-8
    warmup_steps: Steps = 1000
    warmup_factor: Share = 0.1
    segmenter: str = "semantic_fpn"
    reduce_zero_label: bool = False
    augmentation: SegmentationAugmentation = field(default_factory=SegmentationAugmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        network_class(self.segmenter, "segmentation")  # raises ConfigError if there is none

    @property
    def subject(self) -> str:
        return f"{self.segmenter} with {self.backbone}"

    @property
    def memory_note(self) -> str:
        return f" of {self.augmentation.crop} x {self.augmentation.crop}"
