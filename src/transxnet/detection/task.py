"""Losses and metrics of a detector, as a Lightning module."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from transxnet.data.coco.opening import CocoSource
from transxnet.data.loader import BadImages
from transxnet.data.transfers import to_host
from transxnet.dense.protocol import Detector
from transxnet.detection.batches import DetectionBatch
from transxnet.detection.evaluate import coco_results, precision
from transxnet.detection.recipe import DetectionRecipe
from transxnet.training.dense_task import DenseTask
from transxnet.training.processes import gathered


class DetectionTask(DenseTask):
    """Sum of the detector's own losses; COCO's average precision.

    Args:
        model: The detector.
        recipe: The settings.
        bad: Counts unusable images; stops the run when there are too many.
        validation: The validation images and their objects.
    """

    metric = "val/AP"
    metric_label = "AP"
    model: Detector
    recipe: DetectionRecipe

    def __init__(self, model: Detector, recipe: DetectionRecipe, bad: BadImages, validation: CocoSource) -> None:
        super().__init__(model, recipe, bad)
        self.validation = validation
        self._results: list[dict[str, Any]] = []
        self._evaluated: list[int] = []

    def loss(self, batch: DetectionBatch) -> Tensor:
        """The sum of the detector's losses."""
        losses: dict[str, Tensor] = self.model(batch.images, batch.targets)
        for name, value in losses.items():  # for TensorBoard
            self.log(f"step/{name.removeprefix('loss_')}", value.detach(), on_step=True, on_epoch=False)
        return torch.stack(list(losses.values())).sum()

    def on_validation_epoch_start(self) -> None:
        self._results, self._evaluated = [], []

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        self.count_bad(batch)
        if len(batch.images):
            found = [to_host(one) for one in self.model(batch.images)]
            self._results += coco_results(found, batch, self.validation)
            self._evaluated += batch.indices.tolist()

    def on_validation_epoch_end(self) -> None:
        results = [result for part in gathered(self._results) for result in part]
        evaluated = [index for part in gathered(self._evaluated) for index in part]
        kinds: dict[str, Literal["bbox", "segm"]] = {"box": "bbox"}
        if self.model.predicts_masks:
            kinds["mask"] = "segm"
        for kind, compared in kinds.items():
            scores = precision(self.validation, evaluated, results, compared).scores
            for name in ("AP", "AP50", "AP75"):
                self.log(f"val/{kind}_{name}", _number(scores[name]))
        self.log(self.metric, _number(scores["AP"]))  # the masks' if there are any


def _number(score: float | None) -> float:
    """A score as a metric: NaN, which chooses no checkpoint, if there is none."""
    return float("nan") if score is None else score
