"""Recipe of detectors and segmenters: a backbone under a head, and the released schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from transxnet.bounds import FurtherEpochs, ImageSide, PyramidChannels, Share, Steps
from transxnet.errors import ConfigError
from transxnet.training.recipe import RELEASED_CHECKPOINT, Recipe
from transxnet.zoo import NETWORKS, RELEASED, full_name

_MAX_EPOCH_IMAGES = 20_000_000  # their (epoch, index) pairs are a list


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
