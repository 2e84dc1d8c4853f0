"""Errors that a user can fix. The commands print them as one line, without a traceback."""

from __future__ import annotations

import signal
from pathlib import Path


class TransXNetError(Exception):
    """Base class; the message says what was wrong, where, and what to do."""

    @property
    def for_commands(self) -> str:
        """The message on a command line, with options instead of functions."""
        return str(self)


class ConfigError(TransXNetError, ValueError):
    """A setting is unknown, out of range, or inconsistent with another."""


class CheckpointError(TransXNetError, ValueError):
    """A checkpoint cannot be read, or does not fit the network.

    Args:
        message: What was wrong, and where; with what to do, unless the others say that.
        advice: What to do in Python.
        options: What to do on a command line, in its options.
        separator: Between the message and what to do.
    """

    def __init__(self, message: str, advice: str = "", options: str = "", *, separator: str = "; ") -> None:
        super().__init__(f"{message}{separator}{advice}" if advice else message)
        self._for_commands = f"{message}{separator}{options}" if options else str(self)

    @property
    def for_commands(self) -> str:
        """As of :class:`TransXNetError`."""
        return self._for_commands


class DataError(TransXNetError, ValueError):
    """A data set or an image cannot be used."""


class Stopped(Exception):  # noqa: N818 (a request, not an error)
    """Training was stopped by a signal, and can be resumed.

    Attributes:
        signal: The signal.
        epoch: Finished epochs.
        step: Finished steps.
        saved: Whether all of them are in a checkpoint; otherwise the last checkpoint is older.
        folder: The run folder, to resume.
    """

    def __init__(self, number: signal.Signals, epoch: int, step: int, saved: bool, folder: Path) -> None:
        super().__init__(f"stopped by {number.name}; the run in {folder} can be resumed")
        self.signal, self.epoch, self.step, self.saved, self.folder = number, epoch, step, saved, folder
