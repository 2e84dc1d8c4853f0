"""The command's first moments, before its libraries are imported, which takes seconds.

Ctrl-C ends them with one line and status 130; help and version do not wait for the libraries.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


def end_quietly() -> None:
    """Let Ctrl-C end the process with a line, if this is the command and nothing else handles it.

    The command's own code is not imported yet, and there is nothing to clean up.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def only_prints() -> bool:
    """Whether the process is the command, asked for its help or its version: it needs no network."""
    return _is_command() and sys.argv[1:2] in ([], ["-h"], ["--help"], ["--version"])


def _is_command() -> bool:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 (pathlib is not imported yet)
    if name == "-m":  # Python has not replaced it by the module's file
        given = getattr(sys, "orig_argv", [])
        return "-m" in given[:-1] and given[given.index("-m") + 1].partition(".")[0] == "transxnet"
    return name in ("transxnet", "transxnet.exe")


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"stopped\n")
    os._exit(128 + number)
