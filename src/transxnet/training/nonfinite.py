"""Steps whose loss or gradient is not finite are skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from transxnet.errors import TransXNetError
from transxnet.files import write_text
from transxnet.training.processes import gathered


def marked(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, with NaN gradients.

    The gradients' all-reduce takes these to every process, so that all skip the step.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))


class FiniteSteps(Callback):
    """Skips and counts steps with a gradient that is not finite; too many in a row stop the run.

    A skipped step leaves parameters, optimizer state and running statistics as they were, which neither
    Lightning nor PyTorch's GradScaler (float16 only) does.

    Args:
        maximum: Number of consecutive skipped steps that stops the run.
        names: From the indices of a batch's images to their names.
        report: File that lists the images of the last skipped step when the run is stopped.

    Attributes:
        skipped: Number of skipped steps.
    """

    def __init__(self, maximum: int, names: Callable[[Sequence[int]], list[str]], report: Path) -> None:
        self.maximum = maximum
        self.names = names
        self.report = report
        self.skipped = 0
        self._in_a_row = 0
        self._images: list[Tensor] = []
        self._statistics: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._images = []
            self._remember(pl_module)
        self._images.append(batch.indices)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        if not gradients or torch.nn.utils.get_total_norm(gradients).isfinite():
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer leaves everything as it is
        for current, before in self._statistics.values():
            torch._foreach_copy_(current, before)
        if self._in_a_row >= self.maximum:
            indices = torch.cat(self._images).tolist()
            images = [name for names in gathered(self.names(indices)) for name in names]
            if trainer.is_global_zero:
                write_text(self.report, "\n".join(images) + "\n")
            raise TransXNetError(
                f"the gradient was not finite in {self._in_a_row} steps in a row, up to step {trainer.global_step}; "
                f"the last one's images are listed in {self.report}. Look at them, and start a new run with a "
                "lower --lr, or --precision bf16-mixed or 32, from this one's --checkpoint if you like"
            )

    def _remember(self, pl_module: LightningModule) -> None:
        if not self._statistics:
            by_type: dict[torch.dtype, list[Tensor]] = {}
            for buffer in pl_module.buffers():
                by_type.setdefault(buffer.dtype, []).append(buffer)
            self._statistics = {kind: (same, [b.clone() for b in same]) for kind, same in by_type.items()}
        with torch.no_grad():
            for current, before in self._statistics.values():
                torch._foreach_copy_(before, current)
