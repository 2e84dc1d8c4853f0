"""Consoles that are safe to print names of files and classes to, and whose loss does not stop a run."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from transxnet.text import printable


class SafeConsole(Console):
    """A console that escapes unsafe characters in every string that it prints, in tables too."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)


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


def progress_console(*, quiet: bool = False) -> Console:
    """Standard output for the progress of work that must not stop when nobody reads it."""
    return SafeConsole(highlight=False, soft_wrap=True, quiet=quiet, file=LastingStream(sys.stdout))  # type: ignore[arg-type]


def discard(stream: IO[str]) -> None:
    """Send what a stream still holds to nowhere, so that Python does not fail on it at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
