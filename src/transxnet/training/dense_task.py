"""Optimizer and schedule of detectors and segmenters, as a Lightning module."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from transxnet.training.dense import DenseRecipe
from transxnet.training.task import Task

# Ours for the released names that contain "norm"; the released batch normalisations are called "bn".
_NORMS = re.compile(r"\.(norm1|norm2|ffn\.norm|norms\.\d)\.(weight|bias)$")


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
