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
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.checkpoints.writing import description
from transxnet.data.loading import BadImages, Batch
from transxnet.errors import ConfigError
from transxnet.model import TransXNet
from transxnet.training.checkpointing import agreed
from transxnet.training.finite import marked
from transxnet.training.processes import gathered
from transxnet.training.recipe import Recipe

_PROGRESS_KEY = "transxnet_progress"


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
        self._untold = False  # whether the other processes do not know of this one's latest bad images
        self.mix = _mixup(recipe, model.num_classes)
        # As in the released recipe, erasing comes after normalisation and mixing.
        self.erase = RandomErasing(recipe.augmentation.erase, mode="pixel", device="cpu")
        self.top1 = MulticlassAccuracy(model.num_classes, average="micro")
        self.train_loss, self.val_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")

    def on_fit_start(self) -> None:
        self.erase.device = self.device  # where the noise is drawn

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()  # a checkpoint from an epoch's end still has that epoch's sum

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.schedule.step(self.current_epoch)  # by the epoch's number alone, so that no history is needed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self._count_bad(batch)
        if not len(batch.targets):
            return None
        images, targets = self.vary(batch.images, batch.targets)
        loss = marked(F.cross_entropy(self._scores(images), targets))
        finite = loss.detach().isfinite()  # without asking the device, which would wait for it
        self.train_loss.update(loss.detach().nan_to_num(0.0, 0.0, 0.0), finite * len(batch.targets))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("step/loss", loss.detach(), on_step=True, on_epoch=False)  # for TensorBoard
        self.log("step/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups), on_step=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            # Lightning would keep the gradients until after the next forward pass, which needs the memory.
            self.trainer.optimizers[0].zero_grad(set_to_none=True)
        if self.trainer.world_size > 1 and agreed(self.trainer, self._untold, batch_idx):
            self._share_bad()

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self._share_bad()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count_bad(batch)
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
        rate, least = (self.scaled(rate) for rate in (recipe.lr, recipe.min_lr))
        optimizer = create_optimizer_v2(
            self.model,
            opt="adamw",
            lr=rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        )
        warmup = min(recipe.warmup_epochs, recipe.epochs - 1)
        self.schedule = CosineLRScheduler(
            optimizer, t_initial=recipe.epochs, lr_min=least, warmup_t=warmup, warmup_lr_init=min(1e-6, least)
        )
        return optimizer

    def scaled(self, rate: float) -> float:
        """A learning rate of the recipe for the real number of images in a step."""
        meant = self.recipe.scale_lr_from
        return rate * self.images_per_step / meant if meant else rate

    @property
    def images_per_step(self) -> int:
        """Images that all devices take before the weights change."""
        return self.recipe.batch_size * self.recipe.accumulate * self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = description(self.model)  # so that the file can be used by itself
        # What only this process has seen of the epoch, and all processes' bad images.
        states = gathered((_plain_state(self.train_loss), self.bad.reasons))
        checkpoint[_PROGRESS_KEY] = {
            "train_loss": [state for state, _ in states],
            "bad": {name: reason for _, reasons in states for name, reason in reasons.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint[_PROGRESS_KEY]
        if (before := len(progress["train_loss"])) != self.trainer.world_size:
            raise ConfigError(
                f"the run was on {before} devices and is now on {self.trainer.world_size}, which would give other "
                f"results: use {before}, or start a new run"
            )
        _put_state(self.train_loss, progress["train_loss"][self.global_rank])
        self.bad.reasons.update(progress["bad"])

    def vary(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images, then erase parts; the targets become shares of the classes, smoothed."""
        if self.mix is not None and len(images) % 2 == 0:  # timm mixes pairs
            images, soft = self.mix(images, targets)
        else:
            soft = mixup_target(targets, self.model.num_classes, 1.0, self.recipe.label_smoothing)
        return self.erase(images), soft

    def _count_bad(self, batch: Batch) -> None:
        if self.trainer.world_size == 1:
            self.bad.add(batch.bad)
        else:  # to stop alone would leave the other processes waiting
            self.bad.reasons.update(batch.bad)
            self._untold |= bool(batch.bad)

    def _share_bad(self) -> None:
        for reasons in gathered(self.bad.reasons):
            self.bad.reasons.update(reasons)
        self._untold = False
        self.bad.check()

    def _scores(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.model(images.contiguous(memory_format=torch.channels_last))).float()


def _plain_state(metric: Metric) -> dict[str, Any]:
    state = {name: cast(Tensor, value).cpu() for name, value in metric.metric_state.items()}
    return {"state": state, "updates": metric.update_count}


def _put_state(metric: Metric, saved: dict[str, Any]) -> None:
    for name, value in saved["state"].items():
        setattr(metric, name, value.to(metric.device))
    metric._update_count = saved["updates"]
