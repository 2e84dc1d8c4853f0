"""Loss, metrics and optimizer around a classifier, as Lightning wants them."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
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
        self.top1 = MulticlassAccuracy(model.num_classes, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.bad.add(batch.bad)
        if not len(batch.targets):
            return None
        scores = self._scores(batch)
        loss = F.cross_entropy(scores, batch.targets, label_smoothing=self.recipe.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.bad.add(batch.bad)
        if not len(batch.targets):
            return
        scores = self._scores(batch)
        self.top1.update(scores, batch.targets)
        self.log("val/loss", F.cross_entropy(scores, batch.targets), batch_size=len(batch.targets))
        self.log("val/top1", self.top1, batch_size=len(batch.targets))

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = create_optimizer_v2(
            self.model,
            opt="adamw",
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        )
        warmup = min(recipe.warmup_epochs, recipe.epochs - 1)
        schedule = CosineLRScheduler(
            optimizer, t_initial=recipe.epochs, lr_min=recipe.min_lr, warmup_t=warmup, warmup_lr_init=1e-6
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # The rate is constant within an epoch; Lightning calls this at the end of each.
        scheduler.step(epoch=self.current_epoch + 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = description(self.model)  # so that the file can be used by itself

    def _scores(self, batch: Batch) -> Tensor:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.model(images)).float()
