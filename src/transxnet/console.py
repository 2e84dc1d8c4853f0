"""Consoles, tables and progress bars, rich's or plain text without it, and streams whose loss does not stop a run.

A console escapes unsafe characters in every string that it prints, in tables too.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from transxnet.extras import installed
from transxnet.text import printable

if TYPE_CHECKING or installed("rich"):
    from rich import progress as bars
    from rich.console import Console
    from rich.markup import escape as escape
    from rich.progress import Progress as Progress
    from rich.table import Column as Column
    from rich.table import Table as Table
    from rich.text import Text

    class SafeConsole(Console):
        """A console that is safe to print names of files and classes to."""

        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(printable(text), **settings)

else:
    from transxnet.plain_console import Column, PlainConsole, Progress, Table, escape  # noqa: F401

    bars = None
    SafeConsole = PlainConsole


def image_progress() -> Progress:
    """A bar that counts images, on standard error so that results can be piped."""
    return _progress("BarColumn", "MofNCompleteColumn", "TimeElapsedColumn", "left", "TimeRemainingColumn")


def download_progress() -> Progress:
    """A bar that counts bytes, on standard error."""
    return _progress("BarColumn", "DownloadColumn", "TransferSpeedColumn")


def _progress(*columns: str) -> Progress:
    """A bar on a terminal: rich's columns by name, and texts between them. Without rich, nothing is shown."""
    if bars is None:
        return Progress()
    shown = [getattr(bars, name)() if hasattr(bars, name) else bars.TextColumn(name) for name in columns]
    console = SafeConsole(stderr=True)
    text = bars.TextColumn("{task.description}", markup=False)
    return Progress(text, *shown, console=console, transient=True, disable=not console.is_terminal)


class LastingStream(io.TextIOBase):
    """A stream that goes silent, with one line on standard error, when its reader is gone.

    Training continues without its progress rather than losing its work.

    Args:
        stream: Standard output.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream: IO[str] | None = stream
        self._real = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._real, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()

    def write(self, text: str) -> int:
        try:
            if self._stream is not None:
                self._stream.write(text)
        except OSError as error:
            self._silence(error)
        return len(text)

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            self._silence(error)

    def _silence(self, error: OSError) -> None:
        self._stream = None
        with suppress(OSError, AttributeError):
            sys.stderr.write(f"standard output: {error.strerror}; going on without it\n")
        discard(sys.stdout)


def progress_console(*, quiet: bool = False) -> SafeConsole:
    """Standard output for the progress of work that must not stop when nobody reads it."""
    return SafeConsole(highlight=False, soft_wrap=True, quiet=quiet, file=LastingStream(sys.stdout))  # type: ignore[arg-type]


def discard(stream: IO[str]) -> None:
    """Send what a stream still holds to nowhere, so that Python does not fail on it at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
