"""One OpenMP runtime in a process: PyTorch's, which the kernels use too.

A wheel's kernels name no runtime to load, since PyTorch brings its own, whose file has another name in each release. A
second one in the process would have threads of its own, and both would compete for the processor.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

import torch

_ENTRY = "GOMP_parallel"


class _Found(ctypes.Structure):
    """Dl_info of dladdr(3)."""

    _fields_ = [
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    ]


def share(extension: str = torch._C.__file__, entry: str = _ENTRY) -> None:
    """Let libraries loaded from now on find the functions of PyTorch's OpenMP runtime.

    PyTorch's releases for Linux make them visible to all libraries already. Otherwise this makes the library visible
    that PyTorch uses, or the system's, if PyTorch uses none.

    Args:
        extension: The shared library of PyTorch, which depends on the runtime.
        entry: A function of the runtime.
    """
    everything = ctypes.CDLL(None)
    if hasattr(everything, entry):
        return
    with suppress(OSError):
        used = ctypes.CDLL(extension)  # loaded already; its functions include those of its dependencies
        path = "libgomp.so.1"
        if hasattr(used, entry):
            found = _Found()
            everything.dladdr(ctypes.cast(used[entry], ctypes.c_void_p), ctypes.byref(found))
            path = os.fsdecode(found.path or path)
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
