"""Shared libraries loaded from memory: nothing that happens to a file later changes a library in use."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transxnet.errors import ConfigError

LARGEST = 64 << 20
"""Bytes of a compiled library; it takes one."""

# The loader knows libraries by their names. If a descriptor were closed and its number used again, the name would
# stand for another library, and the loader would return the first one.
_descriptors: list[int] = []


def load(library: bytes) -> ctypes.CDLL:
    """Load a shared library from bytes: from memory on Linux, elsewhere from a private temporary folder.

    Raises:
        OSError: If it is no library, or lacks another one that it needs.
        ConfigError: If there is no temporary folder where one is needed.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # memory that is no program's is forbidden in places
            return _from_memory(library)
    with private_folder() as folder:
        path = folder / "kernels.so"
        path.touch(mode=0o600)
        path.write_bytes(library)
        return ctypes.CDLL(str(path))


def _from_memory(library: bytes) -> ctypes.CDLL:
    import fcntl  # not everywhere

    descriptor = os.memfd_create("transxnet-kernels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(library)
        with suppress(OSError):
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        loaded = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except BaseException:
        os.close(descriptor)
        raise
    _descriptors.append(descriptor)
    return loaded


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that only this user can enter, removed at the end.

    Raises:
        ConfigError: If there is nowhere to make one.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="transxnet-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the native kernels are compiled in a temporary folder, and none can be made ({error.strerror}): set "
            "TMPDIR to a folder that can be written; to do without them, leave out --fuse (in Python, native=True)"
        ) from None
    with temporary as folder:
        yield Path(folder)
