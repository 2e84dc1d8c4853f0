"""Permissions of files that also bind root, whose tests would otherwise read everything."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522  # of the system call's structures, with 64 capabilities
_DAC = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def binding_permissions() -> Iterator[None]:
    """Let the permissions of files bind this thread, even if its user is root."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable: 32 capabilities, then the other 32
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] = before & ~_DAC
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0
