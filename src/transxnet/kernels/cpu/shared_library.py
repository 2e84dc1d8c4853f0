"""Loading shared libraries from memory, so that later changes of a file do not affect a library in use."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transxnet.errors import ConfigError

MAX_BYTES = 64 << 20
"""Maximum size of a compiled library, which takes about 1 MiB."""

# The loader identifies libraries by name. If a descriptor were closed and its number reused, the name would be that of
# another library, and the loader would return the first one.
_descriptors: list[int] = []


def load(library: bytes) -> ctypes.CDLL:
    """Load a shared library from bytes: from memory on Linux, elsewhere from a private temporary folder.

    Raises:
        OSError: If it is not a library, or depends on a missing one.
        ConfigError: If a temporary folder is needed and cannot be created.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # some systems forbid executing anonymous memory
            return _from_memory(library)
    with private_folder() as folder:
        path = folder / "kernels.so"
        path.touch(mode=0o600)
        path.write_bytes(library)
        return ctypes.CDLL(str(path))


def _from_memory(library: bytes) -> ctypes.CDLL:
    import fcntl  # not on all systems

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
    """A temporary folder that only this user can access, removed at the end.

    Raises:
        ConfigError: If it cannot be created.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="transxnet-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the native kernels are compiled in a temporary folder, which cannot be created ({error.strerror}): set "
            "TMPDIR to a writable folder; to do without them, leave out --fuse (in Python, native=True)"
        ) from None
    with temporary as folder:
        yield Path(folder)
