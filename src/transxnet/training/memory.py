"""Memory of a training process."""

from __future__ import annotations

import ctypes
import importlib
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations of this process; no effect elsewhere.

    By default it returns large blocks to the system and gets them back, cleared, in every step: on a CPU
    that costs a tenth of a step or more. The process stays as large as its maximum.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def maximum_memory() -> int:
    """The maximum memory used so far in bytes: allocated on the GPU, or resident of this process; 0 if unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        resource = importlib.import_module("resource")
    except ModuleNotFoundError:  # on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
