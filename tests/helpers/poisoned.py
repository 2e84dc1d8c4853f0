"""Training that meets NaN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from transxnet.classification.task import ClassificationTask
from transxnet.data.loader import Batch


class Poisoned(ClassificationTask):
    """A task some of whose batches hold NaN."""

    poisoned: Sequence[int] = ()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx in self.poisoned:
            batch = batch._replace(images=batch.images * float("nan"))
        return super().training_step(batch, batch_idx)
