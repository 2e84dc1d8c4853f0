"""Standard output and standard error of the commands: printing what is safe for a terminal."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress

from rich.console import Console

from transxnet.text import printable
from transxnet.training.console import SafeConsole as SafeConsole
from transxnet.training.console import discard as discard
from transxnet.training.console import progress_console as progress_console


def error_console() -> Console:
    """Standard error, for remarks and errors."""
    return SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as needed in a file."""
    console = SafeConsole(highlight=False, soft_wrap=False)
    return console if console.is_terminal else SafeConsole(highlight=False, width=200)


def say(line: str) -> None:
    """Print a line to standard output."""
    sys.stdout.write(printable(line) + "\n")


def note(line: str) -> None:
    """Print a line to standard error; an error of writing is ignored."""
    with suppress(OSError):
        sys.stderr.write(printable(line) + "\n")


class ClosedStream(io.TextIOBase):
    """Replaces a standard stream that the parent process closed: writing fails as on a full disk."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def prepare_streams() -> None:
    """Make standard output and standard error accept any character, and exist even if they were closed."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process; a file of ours must not get its number
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, ClosedStream() if name == "stdout" else open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
