"""Standard output and standard error: what is printed is safe for a terminal, and a closed pipe loses no work."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from transxnet.text import printable


class SafeConsole(Console):
    """A console that escapes what is unsafe in every string that it is given, in tables too."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)


class LastingStream(io.TextIOBase):
    """A stream that goes silent, with one line on standard error, when nobody reads it any more.

    Training goes on without its progress rather than losing what it has learned.

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
    """Standard output for the progress of something that must not stop because nobody looks on."""
    return SafeConsole(highlight=False, soft_wrap=True, quiet=quiet, file=LastingStream(sys.stdout))  # type: ignore[arg-type]


def error_console() -> Console:
    """Standard error, for remarks and mistakes."""
    return SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as need be in a file."""
    console = SafeConsole(highlight=False, soft_wrap=False)
    return console if console.is_terminal else SafeConsole(highlight=False, width=200)


def say(line: str) -> None:
    """Print a line to standard output."""
    sys.stdout.write(printable(line) + "\n")


def note(line: str) -> None:
    """Print a line to standard error; nothing is lost where nobody can read it."""
    with suppress(OSError):
        sys.stderr.write(printable(line) + "\n")


class ClosedStream(io.TextIOBase):
    """In place of a standard stream that was closed by whoever started us: writing fails as on a full disk."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def prepare_streams() -> None:
    """Let standard output and standard error take any character, and be there even if they were closed."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us; its number must not become a file of ours
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, ClosedStream() if name == "stdout" else open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: IO[str]) -> None:
    """Let what a stream still holds go nowhere, so that Python does not fail on it at the end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
