"""The Lightning module that the tasks share: mean loss, bad images, exact progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.checkpoints.writing import description
from transxnet.data.loader import BadImages
from transxnet.errors import CheckpointError, ConfigError
from transxnet.layers.norm import synchronise_statistics
from transxnet.training.checkpointing import DATA_KEY, PROGRESS_KEY, agreed
from transxnet.training.nonfinite import marked
from transxnet.training.processes import gathered
from transxnet.training.recipe import Recipe, synchronises


class WeightedMean(MeanMetric):
    """A mean of values with weights, which the device computes without waiting.

    torchmetrics replaces values that are not finite, which waits for the device, or ignores the weights.
    """

    def update(self, value: Tensor, weight: Tensor | int) -> None:  # type: ignore[override]
        """Add a value with its weight, both finite."""
        self.mean_value += value.detach() * weight
        self.weight += weight


class Task(LightningModule):
    """Mean loss, bad images and exact progress; a task adds loss, metrics and optimizer.

    A batch has ``indices`` (B) of its images, and ``bad``, name and reason of each unusable image.

    Args:
        model: The network.
        recipe: The settings.
        bad: Counts unusable images; stops the run when there are too many.

    Attributes:
        metric: Name of the validation metric that chooses the best epoch, a share of 1.
        metric_label: Its name for people.
        kernels: Kernels that computed the run, in order: "reference" (PyTorch's), "native" (ours in C++) or
            "triton" (ours for GPUs).
        report: Prints a remark.
        data: State of the data's fingerprint, for the checkpoints.
    """

    metric: ClassVar[str]
    metric_label: ClassVar[str]

    def __init__(self, model: nn.Module, recipe: Recipe, bad: BadImages) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # fastest for convolutions
        self.recipe = recipe
        self.bad = bad
        self.kernels = ["reference"]
        self.report: Callable[[str], None] = lambda line: None
        self.data: dict[str, Any] = {}
        self._unsynced_bad_images = False  # whether other processes do not know the latest ones of this process
        self.train_loss = WeightedMean()

    def loss(self, batch: Any) -> Tensor:
        """Mean over the batch's images."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Synchronise batch normalisation if the recipe asks for it: the processes know each other from here on."""
        if self.trainer.world_size > 1 and synchronises(self.recipe):
            synchronise_statistics(self.model)

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()  # a checkpoint from an epoch's end still has that epoch's sum

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.count_bad(batch)
        if not len(batch.indices):
            return None
        loss = marked(self.loss(batch))
        finite = loss.detach().isfinite()  # without asking the device, which would wait for it
        self.train_loss.update(loss.detach().nan_to_num(0.0, 0.0, 0.0), finite * len(batch.indices))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("step/loss", loss.detach(), on_step=True, on_epoch=False)  # for TensorBoard
        rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        self.log("step/lr", torch.tensor(rate), on_step=True)  # on the CPU: Lightning would wait for its copy to a GPU
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            # Lightning keeps the gradients until after the next forward pass, which needs the memory.
            self.trainer.optimizers[0].zero_grad(set_to_none=True)
        if self.trainer.world_size > 1 and agreed(self.trainer, self._unsynced_bad_images, batch_idx):
            self._sync_bad_images()

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self._sync_bad_images()

    def scaled(self, rate: float) -> float:
        """A learning rate of the recipe for the actual number of images in a step."""
        return self.recipe.scaled(rate, self.trainer.world_size) if self.recipe.scale_lr_from else rate

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = description(self.model)  # so that the file can be loaded as a network
        checkpoint[DATA_KEY] = self.data
        # Each process's part of the epoch's loss, and all processes' bad images.
        states = gathered((_plain_state(self.train_loss), self.bad.reasons))
        checkpoint[PROGRESS_KEY] = {
            "train_loss": [state for state, _ in states],
            "bad": {name: reason for _, reasons in states for name, reason in reasons.items()},
            "kernels": self.kernels,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_network(checkpoint)
        if not all(count >= 0 for count in _counts(checkpoint["loops"])):
            raise CheckpointError("it counts epochs or steps below 0")
        progress = checkpoint[PROGRESS_KEY]
        if (before := len(progress["train_loss"])) != self.trainer.world_size:
            raise ConfigError(
                f"the run was on {before} devices and is now on {self.trainer.world_size}, which would give other "
                f"results: use {before}, or start a new run"
            )
        _put_state(self.train_loss, progress["train_loss"][self.global_rank])
        bad, computed = dict(progress["bad"]), list(progress.get("kernels") or self.kernels)
        if not all(isinstance(text, str) for text in (*bad, *bad.values(), *computed)):
            raise CheckpointError("its bad images or kernels are not text")
        self.bad.reasons.update(bad)
        if computed[-1:] != self.kernels:
            self.report(
                f"{computed[-1]} kernels computed this run so far, {self.kernels[0]} kernels compute the rest: the "
                "weights will differ, in rounding, from those of an uninterrupted run"
            )
            computed += self.kernels
        self.kernels = computed

    def _check_network(self, checkpoint: dict[str, Any]) -> None:
        """Raise CheckpointError if a checkpoint is of another network than the one that is trained."""
        found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        wanted = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        if names and not isinstance(self.trainer.strategy, FSDPStrategy):  # whose tensors are in pieces
            held = json.loads(checkpoint[METADATA_KEY]).get("architecture", "")
            raise CheckpointError(
                f"the checkpoint holds another network{f', {held}' if held else ''}: {len(names)} tensors differ, such "
                f"as {names[0].removeprefix('model.')}"
            )

    def count_bad(self, batch: Any) -> None:
        """Count a batch's unusable images; raises DataError when there are too many."""
        if self.trainer.world_size == 1:
            self.bad.add(batch.bad)
        else:  # a process that stops alone leaves the others waiting
            self.bad.reasons.update(batch.bad)
            self._unsynced_bad_images |= bool(batch.bad)

    def _sync_bad_images(self) -> None:
        for reasons in gathered(self.bad.reasons):
            self.bad.reasons.update(reasons)
        self._unsynced_bad_images = False
        self.bad.check()


def _plain_state(metric: Metric) -> dict[str, Any]:
    state = {name: cast(Tensor, value).cpu() for name, value in metric.metric_state.items()}
    return {"state": state, "updates": metric.update_count}


def _put_state(metric: Metric, saved: dict[str, Any]) -> None:
    for name, value in saved["state"].items():
        setattr(metric, name, value.to(metric.device))
    metric._update_count = saved["updates"]


def _counts(progress: Any) -> Iterator[float]:
    """All counts in the progress of Lightning's loops."""
    if isinstance(progress, dict | list):
        for part in progress.values() if isinstance(progress, dict) else progress:
            yield from _counts(part)
    else:
        yield progress
