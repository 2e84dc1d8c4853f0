"""A confusion matrix of pixels that is counted without waiting for a GPU; it imports torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from transxnet.dense.pixel_classes import IGNORED


class PixelConfusion(MulticlassConfusionMatrix):
    """torchmetrics' matrix of (truth, prediction); pixels without a class do not count.

    torchmetrics selects the counted pixels and looks for the largest values, for which a GPU is waited for.

    Args:
        num_classes: Classes.
        shared: Whether several processes' counts are added up.
    """

    num_classes: int
    confmat: Tensor

    def __init__(self, num_classes: int, *, shared: bool) -> None:
        super().__init__(num_classes, ignore_index=IGNORED, sync_on_compute=shared, validate_args=False)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count pixels.

        Args:
            preds: Predicted classes (B, H, W).
            target: True classes (B, H, W), 255 where there is none.
        """
        if preds.device.type == "cpu":
            super().update(preds, target)
        else:
            self.confmat += counted(preds, target, self.num_classes)


def counted(classes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels by (truth, prediction), of shape (num_classes, num_classes), of classes and labels (B, H, W)."""
    ignored = num_classes**2
    pairs = torch.where(labels == IGNORED, ignored, labels * num_classes + classes).flatten()
    counts = pairs.new_zeros(ignored + 1).scatter_add_(0, pairs, pairs.new_ones(1).expand(len(pairs)))
    return counts[:-1].view(num_classes, num_classes)
