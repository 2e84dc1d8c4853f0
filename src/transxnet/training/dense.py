"""Recipe and task of detectors and segmenters: a backbone under a head, and the released schedules."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from transxnet.bounds import FurtherEpochs, ImageSide, PyramidChannels, Share, Steps
from transxnet.checkpoints.reading import Checkpoint
from transxnet.checkpoints.released_dense import from_released_dense, is_released_dense
from transxnet.data.masks.classes import Colors, ade20k_classes, palette
from transxnet.dense.head_description import HeadDescription, describe_weights
from transxnet.errors import ConfigError
from transxnet.training.recipe import RELEASED_CHECKPOINT, Recipe
from transxnet.training.task import Task
from transxnet.zoo import NETWORKS, RELEASED, full_name

_MAX_EPOCH_IMAGES = 20_000_000  # their (epoch, index) pairs are a list

# Ours for the released names that contain "norm"; the released batch normalisations are called "bn".
_NORMS = re.compile(r"\.(norm1|norm2|ffn\.norm|norms\.\d)\.(weight|bias)$")


@dataclass(frozen=True)
class DenseRecipe(Recipe):
    """Settings that the recipes of detection and segmentation share.

    Attributes:
        backbone: Name of the backbone, as `transxnet models` lists them.
        backbone_checkpoint: A classifier's weights for the backbone to start from: a file, a run
            folder or a URL; "released" downloads the authors'. `checkpoint` is for a whole network's.
        image_size: Height and width in pixels for which new position biases are stored; null for
            224 x 224, from which they are resized to each image's size.
        backbone_settings: Other fields of the backbone's configuration, such as {layer_scale_init: 0.1}.
        pyramid_channels: Channels of the feature pyramid and of the heads' convolutions.
        normalised_heads: Whether the convolutions of the pyramid and the heads have group normalisations,
            which training from scratch needs; the released networks have none.
        epoch_steps: Steps in an epoch, which goes over the images as often as needed; 0 for one pass.
        schedule: "steps" divides the rate by ten at `milestones`, "cosine" lowers it at every step.
        milestones: Epochs after which the rate falls.
        min_factor: The share of the rate at which the cosine ends.
        warmup_steps: Steps over which the rate first rises in proportion.
        warmup_factor: The share of the rate from which it rises.
        decay: Which tensors have weight decay: "all", "no_norms" (all but the blocks' and the outputs'
            normalisations), or "no_vectors" (all but those of one dimension).
    """

    backbone: str = "transxnet_tiny"
    backbone_checkpoint: str | None = None
    image_size: tuple[ImageSide, ImageSide] | None = None
    backbone_settings: dict[str, Any] = field(default_factory=dict)
    pyramid_channels: PyramidChannels = 256
    normalised_heads: bool = False
    epoch_steps: Steps = 0
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[FurtherEpochs, ...] = (8, 11)
    min_factor: Share = 0.0
    warmup_steps: Steps = 500
    warmup_factor: Share = 0.001
    decay: Literal["all", "no_norms", "no_vectors"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        variant = full_name(self.backbone)  # raises ConfigError if there is none
        if self.compile:
            raise ConfigError("compile does not go with images of many sizes; leave it out")
        if (images := self.epoch_steps * self.batch_size * self.accumulate) > _MAX_EPOCH_IMAGES:
            raise ConfigError(f"epoch_steps make an epoch of {images:,} images; there may be {_MAX_EPOCH_IMAGES:,}")
        try:
            NETWORKS[variant].override(**self.settings_of_backbone())
        except ConfigError as error:
            raise ConfigError(f"backbone_settings: {error}") from error

    @property
    def inputs(self) -> list[str]:
        """As of :class:`Recipe`."""
        return [*super().inputs, *([self.backbone_checkpoint] if self.backbone_checkpoint else [])]

    def rate_factor(self, epoch: int, step: int, steps: int) -> float:
        """The share of the learning rate in a step.

        Args:
            epoch: Whole epochs before it.
            step: Steps before it.
            steps: Steps of the run.
        """
        if self.schedule == "cosine":
            factor = self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2
        else:
            factor = 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if step < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return factor

    def settings_of_backbone(self) -> dict[str, Any]:
        """Fields of the backbone's configuration."""
        size = {"img_size": self.image_size} if self.image_size is not None else {}
        return {"drop_path_rate": self.drop_path, **size, **self.backbone_settings}

    def backbone_source(self) -> str | None:
        """Path or URL of the weights that the backbone starts from.

        Raises:
            ConfigError: If the authors' are asked for and there are none.
        """
        if self.backbone_checkpoint != RELEASED_CHECKPOINT:
            return self.backbone_checkpoint
        urls = [release.url for release in RELEASED if release.architecture == full_name(self.backbone)]
        if not urls:
            raise ConfigError(f"there are no released weights of {self.backbone}; give a file, or none")
        return urls[0]


class DenseTask(Task):
    """AdamW with the learning rate and weight decay of a dense recipe."""

    recipe: DenseRecipe

    def configure_optimizers(self) -> Any:
        decayed: list[nn.Parameter] = []
        exempt: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (exempt if is_exempt(name, parameter, self.recipe.decay) else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.scaled(self.recipe.lr), fused=True
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        per_epoch = -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        step = self.current_epoch * per_epoch + batch_idx // self.trainer.accumulate_grad_batches
        factor = self.recipe.rate_factor(self.current_epoch, step, per_epoch * self.recipe.total_epochs)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.scaled(self.recipe.lr) * factor


def is_exempt(name: str, parameter: nn.Parameter, decay: str) -> bool:
    """Whether a parameter has no weight decay.

    Args:
        name: Our name of it.
        parameter: The parameter.
        decay: As in :class:`DenseRecipe`.
    """
    if decay == "no_norms":
        return _NORMS.search(name) is not None
    return decay == "no_vectors" and parameter.ndim <= 1


def label_names_of(read: Checkpoint) -> tuple[str, ...]:
    """The classes that a detector's or segmenter's file was trained for; empty if they are not known."""
    weights = read.state_dict
    if read.head:
        return HeadDescription.from_dict(read.head, read.source).label_names
    names = from_released_dense(weights) if is_released_dense(weights) else weights
    return known_classes(describe_weights(names, read.source)).label_names


def known_classes(head: HeadDescription) -> HeadDescription:
    """The description with class names and colours; those of COCO and ADE20K where the file has none."""
    if not head.label_names and head.task == "segmentation" and head.num_classes == 150:
        head = dataclasses.replace(head, label_names=tuple(ade20k_classes()[0]), colors=_plain(ade20k_classes()[1]))
    if not head.label_names and head.task == "detection" and head.num_classes == 80:
        coco = coco_classes()
        head = dataclasses.replace(head, label_names=tuple(coco.values()), category_ids=tuple(coco))
    if not head.label_names:
        numbers = range(head.num_classes)
        head = dataclasses.replace(head, label_names=tuple(f"class {number}" for number in numbers))
    return head if head.colors else dataclasses.replace(head, colors=_plain(palette(head.num_classes)))


def coco_classes() -> dict[int, str]:
    """The names of COCO's 80 categories by their ids, from torchvision."""
    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")}


def _plain(colors: Colors) -> tuple[tuple[int, int, int], ...]:
    return tuple((red, green, blue) for red, green, blue in colors.tolist())
