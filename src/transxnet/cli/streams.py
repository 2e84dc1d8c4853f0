"""Standard output and standard error of the commands: printing what is safe for a terminal."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

from transxnet.console import SafeConsole
from transxnet.text import printable

_IMAGES = "transxnet.data.images.pixel_values"  # imported with the commands that read images
_UNBOUNDED = 2**16  # columns of a table in a file: no path is cut


def error_console() -> SafeConsole:
    """Standard error, for remarks and errors."""
    return SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def table_console() -> SafeConsole:
    """Standard output for tables: as wide as the terminal, or as wide as needed in a file."""
    console = SafeConsole(highlight=False, soft_wrap=False)
    return console if console.is_terminal else SafeConsole(highlight=False, width=_UNBOUNDED)


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
    """Make standard output and standard error accept any character, and exist even if they were closed.

    Remarks on how images are read are printed as lines.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process; a file of ours must not get its number
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, ClosedStream() if name == "stdout" else open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if (values := sys.modules.get(_IMAGES)) is not None:
        values.warn_once.cache_clear()
    if warnings.showwarning is not _show_warning:
        _show_warning.others = warnings.showwarning  # type: ignore[attr-defined]
        warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **settings: Any) -> None:
    """Print a remark on images as a line, and any other warning as before."""
    if category.__name__ == "ImageWarning" and category.__module__ == _IMAGES:
        note(str(message))
    else:
        _show_warning.others(message, category, *where, **settings)  # type: ignore[attr-defined]
