"""Loss, metrics and optimizer of a classifier, as a Lightning module."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from transxnet.classification.recipe import ClassificationRecipe
from transxnet.data.loader import BadImages, Batch
from transxnet.data.transforms import Normalisation
from transxnet.model import TransXNet
from transxnet.training.task import Task, WeightedMean


def _mixup(recipe: ClassificationRecipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        recipe.mixup, recipe.cutmix, switch_prob=0.5, label_smoothing=recipe.label_smoothing, num_classes=num_classes
    )


class ClassificationTask(Task):
    """Cross entropy with label smoothing; AdamW with a warm-up and a cosine; top-1 accuracy.

    Args:
        model: The classifier.
        recipe: The settings.
        bad: Counts unusable images; stops the run when there are too many.
    """

    metric = "val/top1"
    metric_label = "accuracy"
    model: TransXNet
    recipe: ClassificationRecipe

    def __init__(self, model: TransXNet, recipe: ClassificationRecipe, bad: BadImages) -> None:
        super().__init__(model, recipe, bad)
        self.mix = _mixup(recipe, model.num_classes)
        # As in the released recipe, erasing comes after normalisation and mixing.
        self.erase = RandomErasing(recipe.augmentation.erase, mode="pixel", device="cpu")
        self.normalise = Normalisation(vars(model)["pretrained_cfg"])
        self.top1 = MulticlassAccuracy(model.num_classes, average="micro")
        self.val_loss = WeightedMean()

    def on_fit_start(self) -> None:
        self.erase.device = self.device  # the noise is drawn there

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise what the loader left as bytes."""
        return batch._replace(images=self.normalise(batch.images)) if batch.images.dtype == torch.uint8 else batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.schedule.step(self.current_epoch)  # by the epoch's number alone, so that no history is needed

    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the mixed and erased images."""
        images, targets = self.mixed(batch.images, batch.targets)
        return F.cross_entropy(self._scores(images), targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.count_bad(batch)
        if not len(batch.targets):
            return
        scores = self._scores(batch.images)
        self.top1.update(scores, batch.targets)
        self.val_loss.update(F.cross_entropy(scores, batch.targets), len(batch.targets))

    def on_validation_epoch_end(self) -> None:
        self.log("val/top1", self.top1)
        self.log("val/loss", self.val_loss)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        rate, minimum = (self.scaled(rate) for rate in (recipe.lr, recipe.min_lr))
        settings: dict[str, Any] = {"fused": True} if self.device.type == "cuda" else {}  # on a CPU it rounds otherwise
        optimizer = create_optimizer_v2(
            self.model,
            opt="adamw",
            lr=rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
            **settings,
        )
        warmup = min(recipe.warmup_epochs, recipe.epochs - 1)
        self.schedule = CosineLRScheduler(
            optimizer, t_initial=recipe.epochs, lr_min=minimum, warmup_t=warmup, warmup_lr_init=min(1e-6, minimum)
        )
        return optimizer

    def mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images, then erase parts; the targets become shares of the classes, smoothed."""
        if self.mix is not None and len(images) % 2 == 0:  # timm mixes pairs
            images, soft = self.mix(images, targets)
        else:
            soft = mixup_target(targets, self.model.num_classes, 1.0, self.recipe.label_smoothing)
        return self.erase(images), soft

    def _scores(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.model(images.contiguous(memory_format=torch.channels_last))).float()
