"""Resuming a run whose data may have changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from transxnet.data.fingerprint import Fingerprint, class_changes, image_changes, same_images, with_split_of
from transxnet.errors import CheckpointError, ConfigError
from transxnet.files import reason
from transxnet.training.checkpointing import DATA_KEY

DataChanged = Literal["refuse", "accept"]
"""Whether a run is resumed if its data changed; held-out images stay held out."""


class ResumedData:
    """Compares the data set of a run that is resumed with the one it was started with.

    Args:
        root: Folder of the data.
        resume: The checkpoint to resume from; None for a new run.
        changed: Whether to go on if the data changed.

    Attributes:
        remarks: What is unusual, for the description of the data.

    Raises:
        CheckpointError: If the checkpoint's fingerprint cannot be read.
    """

    def __init__(self, root: Path, resume: Path | None, changed: DataChanged) -> None:
        self.root = root
        self.resume = resume
        self.changed = changed
        self.remarks: list[str] = []
        self.before = _fingerprint_in(resume) if resume else None

    def adopt(self, data: Any) -> Any:
        """The data set to train on: the one given, or with the held-out images of the run if it changed.

        Raises:
            ConfigError: If it changed, unless that is accepted; if the classes did, in any case.
            DataError: If no image is left to learn from, or to evaluate on.
        """
        if self.resume is None or data.train is None:  # the experiment refuses data without training images
            return data
        before = self.before
        if before is None:
            self.remarks.append("this run has no fingerprint of its data: whether the data changed since is not known")
            return data
        now = Fingerprint.of(data, self.root)
        if change := class_changes(before.class_names, now.class_names):
            raise ConfigError(
                f"the data changed since the run was started: {change}. Its network has other classes: start a new "
                "run, from its weights with --checkpoint"
            )
        if data.everything is not None and same_images(before, now):  # divided as before, by whatever rule that was
            data = with_split_of(before, data, self.root)
            now = Fingerprint.of(data, self.root)
        found = "; ".join(image_changes(before, now, data, self.root))
        if found and self.changed == "refuse":
            raise ConfigError(
                f"the data changed since the run was started: {found}. Restore it, start a new run, or go on with "
                "--data-changed accept: images that were held out stay held out, and new ones are learned from"
            )
        if not found:
            return data
        data = with_split_of(before, data, self.root)
        self.remarks.append(
            f"the data changed since the run was started: {found}; held-out images are those of before, as far as they "
            "exist"
        )
        return data


def _fingerprint_in(checkpoint: Path) -> Fingerprint | None:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        state = content.get(DATA_KEY)
        return None if state is None else Fingerprint.from_state(state)
    except Exception as error:  # damaged bytes can raise anything
        raise CheckpointError(f"training cannot be resumed from {checkpoint}: {reason(error)}") from error
