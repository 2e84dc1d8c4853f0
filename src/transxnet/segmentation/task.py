"""Loss and metrics of a segmenter, as a Lightning module."""

from __future__ import annotations

from torch import Tensor

from transxnet.data.loader import BadImages
from transxnet.dense.protocol import Segmenter
from transxnet.segmentation.batches import SegmentationBatch
from transxnet.segmentation.evaluate import agreement, confusion
from transxnet.segmentation.predict import segmented
from transxnet.segmentation.recipe import SegmentationRecipe
from transxnet.training.dense_task import DenseTask


class SegmentationTask(DenseTask):
    """Cross entropy of every pixel; mean intersection over union.

    Args:
        model: The segmenter.
        recipe: The settings.
        bad: Counts unusable images; stops the run when there are too many.
    """

    metric = "val/mIoU"
    metric_label = "mIoU"
    model: Segmenter
    recipe: SegmentationRecipe

    def __init__(self, model: Segmenter, recipe: SegmentationRecipe, bad: BadImages) -> None:
        super().__init__(model, recipe, bad)
        self.table = confusion(model.num_classes)

    def loss(self, batch: SegmentationBatch) -> Tensor:
        """Mean cross entropy of all labelled pixels."""
        return self.model.loss(batch.images, batch.labels)

    def on_validation_epoch_start(self) -> None:
        self.table.reset()

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        self.count_bad(batch)
        if len(batch.indices):
            height, width = batch.labels.shape[1:]
            self.table.update(segmented(self.model, batch.images, (height, width)), batch.labels)

    def on_validation_epoch_end(self) -> None:
        found = agreement(self.table.compute())
        self.log("val/mIoU", found.miou)
        self.log("val/mAcc", found.macc)
        self.log("val/aAcc", found.aacc)
