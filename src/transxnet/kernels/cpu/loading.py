"""The compiled kernels, after a comparison of their structures with those of Python."""

from __future__ import annotations

import ctypes
import functools

from transxnet.errors import ConfigError
from transxnet.kernels.cpu import build, layouts


def library(float16: bool = False) -> ctypes.CDLL:
    """The compiled kernels: see :func:`transxnet.kernels.cpu.build.library`.

    Args:
        float16: Those that compute in float16 in place of float32.

    Raises:
        ConfigError: If there is no compiler, it cannot compile them, or their structures are not those of ``layouts``.
    """
    kernels = build.library(float16)
    _compare(kernels, float16)
    return kernels


@functools.cache
def _compare(kernels: ctypes.CDLL, float16: bool) -> None:
    for structure in layouts.SHARED if float16 else (*layouts.SHARED, *layouts.FLOAT32):
        size = kernels[f"size_of_{structure.__name__}"]
        size.argtypes, size.restype = (), ctypes.c_int64
        if size() != ctypes.sizeof(structure):
            raise ConfigError(
                f"the native kernels' structure {structure.__name__} has {size()} bytes, but {layouts.__name__} has "
                f"{ctypes.sizeof(structure)}: give both the same fields"
            )
