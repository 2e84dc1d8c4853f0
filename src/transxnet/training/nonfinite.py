"""Steps whose loss or gradient is not finite are skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from transxnet.errors import TransXNetError
from transxnet.files import write_text
from transxnet.training.processes import gathered

READ_EVERY = 10
"""Steps between two readings of numbers from a GPU, each of which waits for it."""


def may_wait(trainer: Trainer, batch_idx: int) -> bool:
    """Whether numbers are read from the device after a batch: always from a CPU, rarely from a GPU."""
    return batch_idx % READ_EVERY == 0 or trainer.strategy.root_device.type == "cpu"


def marked(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, with NaN gradients.

    The gradients' all-reduce takes these to every process, so that all skip the step.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))


class FiniteSteps(Callback):
    """Skips and counts steps with a gradient that is not finite; too many in a row stop the run.

    A skipped step leaves parameters, optimizer state and running statistics as they were, which neither
    Lightning nor PyTorch's GradScaler (float16 only) does.

    On a GPU nothing waits for the check: a fused optimizer skips the step itself, by its attribute ``found_inf``,
    which the GradScaler sets where there is one; the counts stay on the device, and are read every few steps. Until
    then, further steps that are not finite are skipped as well.

    Args:
        maximum: Number of consecutive skipped steps that stops the run.
        names: From the indices of a batch's images to their names.
        report: File that lists the images of the last skipped step when the run is stopped.
        on_device: Whether to check on the device without waiting for it; by default on a GPU with a fused optimizer.

    Attributes:
        skipped: Number of skipped steps, as far as it was read.
    """

    def __init__(
        self,
        maximum: int,
        names: Callable[[Sequence[int]], list[str]],
        report: Path,
        *,
        on_device: bool | None = None,
    ) -> None:
        self.maximum = maximum
        self.names = names
        self.report = report
        self.skipped = 0
        self._in_a_row = 0
        self._images: deque[list[Tensor]] = deque(maxlen=READ_EVERY + 1)  # of the latest steps
        self._statistics: list[_Statistics] = []
        self._on_device = on_device
        self._counts: _Counts | None = None  # on the device

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        # The optimizer of a run that an older release started is not fused.
        fused = all(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        if self._on_device or (self._on_device is None and device.type == "cuda" and fused):
            self._counts = _Counts(self.skipped, self._in_a_row, device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._images.append([])
            self._remember(pl_module)
        self._images[-1].append(batch.indices)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        if self._counts is not None:
            self._check_on_device(self._counts, trainer, optimizer, gradients)
            return
        if not gradients or torch.nn.utils.get_total_norm(gradients).isfinite():
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer leaves everything as it is
        for statistics in self._statistics:
            statistics.restore()
        if self._in_a_row >= self.maximum:
            self._stop(trainer, self._in_a_row, self._images[-1])

    def _check_on_device(
        self, counts: _Counts, trainer: Trainer, optimizer: Optimizer, gradients: list[Tensor]
    ) -> None:
        """Skip the step on the device if it is not finite, and count it there."""
        if not gradients:
            counts.add(torch.zeros_like(counts.skipped, dtype=torch.bool))
            return
        # The largest absolute value, which is not finite where any value is not, and cannot overflow as a sum does.
        unusable = ~torch.nn.utils.get_total_norm(gradients, float("inf")).isfinite()
        if isinstance(trainer.strategy, FSDPStrategy):  # each process has a part of the gradients
            torch.distributed.all_reduce(unusable, torch.distributed.ReduceOp.MAX)
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # a scaler sets it, and looks for the same values
            optimizer.found_inf = unusable.float()  # type: ignore[attr-defined]
        for statistics in self._statistics:
            statistics.restore(unusable)
        counts.add(unusable)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, rest = divmod(batch_idx, trainer.accumulate_grad_batches)
        if rest == trainer.accumulate_grad_batches - 1 and step % READ_EVERY == 0:
            self._read_and_stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_and_stop(trainer)

    def _read(self) -> tuple[int, int]:
        """Read the device's counts; returns the longest series of skipped steps, and the steps after the last one."""
        if self._counts is None:
            return 0, 0
        self.skipped, self._in_a_row, longest, since = self._counts.read()
        return longest, since

    def _read_and_stop(self, trainer: Trainer) -> None:
        longest, since = self._read()
        if longest >= self.maximum:
            self._stop(trainer, longest, self._images[max(-1 - since, -len(self._images))])

    def _stop(self, trainer: Trainer, in_a_row: int, latest: list[Tensor]) -> None:
        """Stop the run; ``latest`` are the indices of the images of the last skipped step."""
        indices = torch.cat(latest).tolist()
        images = [name for names in gathered(self.names(indices)) for name in names]
        if trainer.is_global_zero:
            write_text(self.report, "\n".join(images) + "\n")
        raise TransXNetError(
            f"the gradient was not finite in {in_a_row} steps in a row, up to step {trainer.global_step}; "
            f"the last one's images are listed in {self.report}. Look at them, and start a new run with a "
            "lower --lr, or --precision bf16-mixed or 32, from this one's --checkpoint if you like"
        )

    def _remember(self, pl_module: LightningModule) -> None:
        if not self._statistics:
            by_type: dict[torch.dtype, list[Tensor]] = {}
            for buffer in pl_module.buffers():
                by_type.setdefault(buffer.dtype, []).append(buffer)
            self._statistics = [_Statistics(same) for same in by_type.values()]
        for statistics in self._statistics:
            statistics.remember()


class _Statistics:
    """Running statistics of one type, and their values before a step.

    Args:
        current: The network's buffers, all of one type and on one device.
    """

    def __init__(self, current: list[Tensor]) -> None:
        self.current = current
        self._before, self._before_parts = _packed(current)
        self._now, self._now_parts = _packed(current)

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the current values."""
        torch._foreach_copy_(self._before_parts, self.current)

    @torch.no_grad()
    def restore(self, condition: Tensor | None = None) -> None:
        """Put the remembered values back; only where a truth value on the device is true, if one is given."""
        if condition is None:
            torch._foreach_copy_(self.current, self._before_parts)
            return
        torch._foreach_copy_(self._now_parts, self.current)
        torch.where(condition, self._before, self._now, out=self._now)
        torch._foreach_copy_(self.current, self._now_parts)


def _packed(like: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One tensor for the values of many, and its parts in their shapes."""
    whole = like[0].new_empty(sum(one.numel() for one in like))
    pieces = whole.split([one.numel() for one in like])
    return whole, [piece.view(one.shape) for piece, one in zip(pieces, like, strict=True)]


class _Counts:
    """Counts of skipped steps on a device.

    Args:
        skipped: Skipped steps so far.
        in_a_row: Skipped steps since the last one that was not.
        device: The device.
    """

    def __init__(self, skipped: int, in_a_row: int, device: torch.device) -> None:
        self.skipped, self.in_a_row = (torch.tensor(value, device=device) for value in (skipped, in_a_row))
        self.longest = torch.zeros_like(self.skipped)  # series
        self.since = torch.zeros_like(self.skipped)  # steps after the last skipped one

    def add(self, unusable: Tensor) -> None:
        """Count a step."""
        self.skipped += unusable
        self.in_a_row = (self.in_a_row + 1) * unusable
        self.longest = torch.maximum(self.longest, self.in_a_row)
        self.since = (self.since + 1) * ~unusable

    def read(self) -> list[int]:
        """All counts, which waits for the device."""
        counts: list[int] = torch.stack([self.skipped, self.in_a_row, self.longest, self.since]).tolist()
        return counts
