"""Loss, metrics and optimizer around a classifier, as Lightning wants them."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.checkpoints.writing import description
from transxnet.data.loading import BadImages, Batch
from transxnet.model import TransXNet
from transxnet.training.recipe import Recipe


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        recipe.mixup, recipe.cutmix, switch_prob=0.5, label_smoothing=recipe.label_smoothing, num_classes=num_classes
    )


class ClassificationTask(LightningModule):
    """Cross entropy with label smoothing; AdamW with a warm-up and a cosine; top-1 accuracy.

    Args:
        model: The classifier.
        recipe: The settings.
        bad: Counts the images that could not be used; stops the run when there are too many.
    """

    def __init__(self, model: TransXNet, recipe: Recipe, bad: BadImages) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.bad = bad
        self.mix = _mixup(recipe, model.num_classes)
        # As in the released recipe, erasing comes after normalisation and mixing.
        self.erase = RandomErasing(recipe.augmentation.erase, mode="pixel", device="cpu")
        self.top1 = MulticlassAccuracy(model.num_classes, average="micro")

    def on_fit_start(self) -> None:
        self.erase.device = self.device  # where the noise is drawn

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.bad.add(batch.bad)
        if not len(batch.targets):
            return None
        images, targets = self.vary(batch.images, batch.targets)
        loss = F.cross_entropy(self._scores(images), targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.bad.add(batch.bad)
        if not len(batch.targets):
            return
        scores = self._scores(batch.images)
        self.top1.update(scores, batch.targets)
        self.log("val/loss", F.cross_entropy(scores, batch.targets), batch_size=len(batch.targets))
        self.log("val/top1", self.top1, batch_size=len(batch.targets))

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        rate, least = (self.scaled(rate) for rate in (recipe.lr, recipe.min_lr))
        optimizer = create_optimizer_v2(
            self.model,
            opt="adamw",
            lr=rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        )
        warmup = min(recipe.warmup_epochs, recipe.epochs - 1)
        schedule = CosineLRScheduler(
            optimizer, t_initial=recipe.epochs, lr_min=least, warmup_t=warmup, warmup_lr_init=min(1e-6, least)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def scaled(self, rate: float) -> float:
        """A learning rate of the recipe for the real number of images in a step."""
        meant = self.recipe.scale_lr_from
        return rate * self.images_per_step / meant if meant else rate

    @property
    def images_per_step(self) -> int:
        """Images that all devices take before the weights change."""
        return self.recipe.batch_size * self.recipe.accumulate * self.trainer.world_size

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # The rate is constant within an epoch; Lightning calls this at the end of each.
        scheduler.step(epoch=self.current_epoch + 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = description(self.model)  # so that the file can be used by itself

    def vary(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images, then erase parts; the targets become shares of the classes, smoothed."""
        if self.mix is not None and len(images) % 2 == 0:  # timm mixes pairs
            images, soft = self.mix(images, targets)
        else:
            soft = mixup_target(targets, self.model.num_classes, 1.0, self.recipe.label_smoothing)
        return self.erase(images), soft

    def _scores(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.model(images.contiguous(memory_format=torch.channels_last))).float()
