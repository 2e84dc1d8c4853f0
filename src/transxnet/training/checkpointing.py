"""Writing and choosing checkpoints: safe against a kill at any moment, a full disk and a damaged file."""

from __future__ import annotations

import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from rich.console import Console

from transxnet.checkpoints.reading import METADATA_KEY
from transxnet.errors import CheckpointError
from transxnet.files import FULL, check_regular, reason, remove_leftovers, replacing, user_path

PROGRESS_KEY = "transxnet_progress"
"""Key of what Lightning does not save: metrics of the epoch so far, bad images, the kernels."""

DATA_KEY = "transxnet_data"
"""Key of the fingerprint of the data."""

_NAME = re.compile(r"epoch(\d+)-step(\d+)\.ckpt")


class WholeFiles(CheckpointIO):
    """Writes checkpoints atomically, flushed to disk, and reads them without executing code.

    Lightning's own plugin holds a second copy in memory, does not flush, and raises on a full disk.

    Attributes:
        failure: Why the last write failed; None if it did not. A failed write must not stop one
            of several processes while the others wait for it, so it is reported, not raised.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.failure = None
        try:
            with replacing(Path(path)) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # PyTorch turns a full disk into a RuntimeError
            self.failure = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpointer(Checkpoint):
    """Saves every so many minutes and after every epoch, and keeps the newest few.

    ``last.ckpt`` is the newest under a fixed name, ``best.ckpt`` the one after the epoch with the
    highest metric. Lightning's ModelCheckpoint stops the run when a write fails, and may save while
    gradients are being accumulated.

    Args:
        folder: Folder of the checkpoints.
        files: Writes them.
        console: Reports a failed write.
        minutes: Time between two saves within an epoch; 0 for none.
        keep: Number of checkpoints to keep.
        metric: The validation metric that chooses the best.
    """

    def __init__(
        self, folder: Path, files: WholeFiles, console: Console, *, minutes: float, keep: int, metric: str
    ) -> None:
        self.folder = folder
        self.files = files
        self.console = console
        self.minutes = minutes
        self.keep = keep
        self.metric = metric
        self.best = float("-inf")
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = float(state_dict["best"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            remove_leftovers(self.folder)
            self._set_aside(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.minutes > 0 and time.monotonic() - self._saved_at >= 60 * self.minutes
        if self.can_save(trainer, batch_idx) and agreed(trainer, due, batch_idx):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics.get(self.metric, float("nan")))
        better = score > self.best
        self.best = score if better else self.best
        path = self.save(trainer)
        if better and path is not None and trainer.is_global_zero:
            self._name(path, "best.ckpt")

    def _set_aside(self, step: int) -> None:
        """Move away checkpoints later than the one resumed from, which would be taken for the newest."""
        later = [path for path in saved(self.folder) if step_of(path) > step]
        for path in later:
            (self.folder / "set-aside").mkdir(exist_ok=True)
            path.replace(self.folder / "set-aside" / path.name)
        if later:
            self.console.print(f"{len(later)} later checkpoints are now in {self.folder / 'set-aside'}", markup=False)

    @staticmethod
    def can_save(trainer: Trainer, batch_idx: int) -> bool:
        """Whether a checkpoint can be exact: no gradients are being accumulated, and no validation follows."""
        done = batch_idx + 1
        return done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches

    def save(self, trainer: Trainer) -> Path | None:
        """Save now; returns the file, or None if it could not be written, which is reported."""
        self._saved_at = time.monotonic()
        path = self.folder / f"epoch{trainer.current_epoch:04d}-step{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        if not trainer.is_global_zero:
            return path
        if self.files.failure is None:
            self._name(path, "last.ckpt")
        if self.files.failure is not None:
            cause = _cause(self.files.failure)
            advice = f". Make room in {self.folder}" if cause is not None and cause.errno in FULL else ""
            self.console.print(
                f"no checkpoint at step {trainer.global_step}: {_reason(self.files.failure)}; training continues, and "
                f"the checkpoint before is whole{advice}",
                markup=False,
            )
            return None
        for old in saved(self.folder)[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def _name(self, path: Path, name: str) -> None:
        """Give the file a second, fixed name: a hard link, or a copy where there are no links."""
        try:
            with replacing(self.folder / name) as temporary:
                temporary.unlink()  # a link wants a free name
                try:
                    os.link(path, temporary)
                except OSError:
                    shutil.copyfile(path, temporary)
        except OSError as error:
            self.files.failure = error


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first; none if there is no folder.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise CheckpointError(f"the checkpoints in {folder} cannot be read: {reason(error)}") from error
    found = [(tuple(map(int, match.groups())), path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def step_of(path: Path | None) -> int:
    """Number of steps before a checkpoint; 0 without one."""
    if path is None:
        return 0
    if match := _NAME.fullmatch(path.name):  # its contents may be damaged
        return int(match[2])
    return int(torch.load(path, map_location="meta", weights_only=True)["global_step"])


_CONTENT: dict[str, type] = {
    "state_dict": dict,
    "optimizer_states": list,
    "loops": dict,
    "callbacks": dict,
    "global_step": int,
    "epoch": int,
    METADATA_KEY: str,
    PROGRESS_KEY: dict,
}


def newest_whole(folder: Path, console: Console) -> Path | None:
    """The newest undamaged checkpoint; None without any. Damaged ones are reported.

    Raises:
        CheckpointError: If this user may not read one: it would be lost with all steps since the one before.
    """
    for path in saved(folder):
        found = damage(path)
        if found is None:
            return path
        console.print(f"{path} cannot be used ({found}); going back to the one before", markup=False)
    return None


def damage(path: Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is a run's, and every byte is as it was written.

    PyTorch's files are zip archives with a check sum of each part, which PyTorch does not verify when it
    reads.

    Raises:
        CheckpointError: If this user may not read it.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                return "it is compressed, which no checkpoint is"
            name = archive.testzip()
        if name is not None:
            return f"{name} does not match its check sum"
        content = torch.load(path, map_location="meta", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason(error)}") from error
    except Exception as error:  # noqa: BLE001 (damaged bytes can raise anything)
        return _reason(error)
    if not isinstance(content, dict):
        return "it holds no training run"
    lacking = [name for name, kind in _CONTENT.items() if not isinstance(content.get(name), kind)]
    return f"it holds no training run: it lacks {', '.join(lacking)}" if lacking else None


def resumable(source: str) -> Path:
    """A checkpoint that was named to resume from.

    Raises:
        CheckpointError: If it does not exist or is damaged.
    """
    path = user_path(source)
    if not path.is_file():
        raise CheckpointError(f"there is no run folder and no checkpoint {path}")
    if found := damage(path):
        raise CheckpointError(
            f"training cannot be resumed from {path}: {found}. `--resume auto` takes the newest whole checkpoint of a "
            "run; --checkpoint starts a new run from weights"
        )
    return path


def agreed(trainer: Trainer, wanted: bool, batch_idx: int) -> bool:
    """Whether any of the processes wants something; all get the same answer at the same batch."""
    if trainer.world_size == 1:
        return wanted
    if (batch_idx + 1) % 10:  # asking costs a message
        return False
    return bool(trainer.strategy.reduce_boolean_decision(wanted, all=False))


def _cause(error: Exception) -> OSError | None:
    """The operating system's error, which is the context of PyTorch's RuntimeError."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause


def _reason(error: Exception) -> str:
    cause = _cause(error)
    text = cause.strerror if cause is not None and cause.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:120]
