"""Recipe of a classification run: every setting that decides its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transxnet.bounds import (
    BatchSize,
    Beta,
    Crop,
    DropRate,
    Epochs,
    FurtherEpochs,
    ImageSide,
    LearningRate,
    LowestRate,
    PositiveShare,
    Share,
)
from transxnet.data.transforms import Augmentation
from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe
from transxnet.zoo import NETWORKS, full_name


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """Settings of training on labelled images.

    The default numbers are the paper's ImageNet recipe. `data` is "digits" (embedded) or a folder:
    train/ and val/ (or validation/) with a folder for each class, or just the class folders, of
    which a fifth is then held out. `checkpoint` may also be "released", to download the authors'.
    Tensors that are neither vectors nor biases have weight decay.

    Attributes:
        model: Name of the network, as `transxnet models` lists them; null for the checkpoint's.
        image_size: Side of the square training images in pixels; null for the checkpoint's.
        model_settings: Other fields of the network's configuration, such as {token_mixer: swin}.
        eval_crop: Share of the resized image's side that evaluation keeps.
        cooldown_epochs: Further epochs at the minimum rate.
        min_lr: Minimum learning rate of the cosine schedule, which falls over `epochs`.
        warmup_epochs: Epochs of linear warm-up.
        layer_decay: Factor of the rate from one layer to the one below; 1 for equal rates.
        label_smoothing: Share of the target spread over the other classes.
        mixup: Parameter of Mixup's beta distribution; 0 for none.
        cutmix: The same of CutMix; with both, each batch draws one of them.
        augmentation: Augmentation of training images.
    """

    task: ClassVar[str] = "classification"
    fixed_size: ClassVar[bool] = True

    data: str = "digits"
    epochs: Epochs = 300
    batch_size: BatchSize = 128
    lr: LearningRate = 2e-3
    drop_path: DropRate = 0.1
    ema_decay: DropRate = 0.9998
    model: str | None = "transxnet_tiny"
    image_size: ImageSide | None = 224
    model_settings: dict[str, Any] = field(default_factory=dict)
    eval_crop: Crop = 0.9
    cooldown_epochs: FurtherEpochs = 10
    min_lr: LowestRate = 1e-5
    warmup_epochs: FurtherEpochs = 5
    layer_decay: PositiveShare = 1.0
    label_smoothing: Share = 0.1
    mixup: Beta = 0.8
    cutmix: Beta = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.checkpoint and (self.model is None or self.image_size is None):
            raise ConfigError("without a checkpoint to follow, give --model and --image-size")
        if self.model_settings and self.model is not None:
            try:
                NETWORKS[full_name(self.model)].override(**self.model_settings)
            except ConfigError as error:
                raise ConfigError(f"model_settings: {error}") from error

    @property
    def subject(self) -> str:
        return self.model or self.checkpoint or ""

    @property
    def total_epochs(self) -> int:
        """All passes over the training images."""
        return self.epochs + self.cooldown_epochs

    @property
    def memory_note(self) -> str:
        return f" of {self.image_size} x {self.image_size}" if self.image_size else ""
