"""Memory between a training's steps."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what is allocated next, for all of this process; elsewhere nothing happens.

    By itself it gives large maps back to the system and takes them anew, cleared, in every step: on a CPU that is
    a tenth of a step or more. The process stays as large as it was at most.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
