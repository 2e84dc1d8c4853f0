"""The kernels that a wheel has compiled for several levels of processors."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from transxnet.errors import ConfigError
from transxnet.files import read_bytes, read_json
from transxnet.kernels.cpu.levels import FOLDER, RECORD, Level, digest, level_of, processor_flags
from transxnet.kernels.cpu.shared_library import MAX_BYTES

VARIABLE = "TRANSXNET_COMPILE_KERNELS"
"""The environment variable that asks for kernels compiled for this very processor, by the machine's compiler."""


def libraries(sources: Path) -> dict[bool, bytes]:
    """The wheel's libraries for this processor, by whether they compute in float16.

    They are as trustworthy as the modules beside them, so owners and permissions are not checked as in the cache.

    Args:
        sources: The folder of the C++ files.

    Returns:
        Nothing if this installation has no libraries or none for this processor, or :data:`VARIABLE` is set.

    Raises:
        OSError: If they are damaged, or were compiled from other sources.
        ConfigError: If the environment variable has another value than 0 or 1.
    """
    folder = sources / FOLDER
    level = _level()
    if compiling_is_asked_for() or level is None or not folder.is_dir():
        return {}
    try:
        record = read_json(folder / RECORD)
        recorded, digests = record["sources"], dict(record["libraries"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OSError(f"{RECORD} is damaged") from None
    if recorded != digest(sources):
        raise OSError("they were compiled from other sources")
    names = {False: level.float32} | ({} if level.float16 is None else {True: level.float16})
    found = {float16: read_bytes(folder / f"{name}.so", MAX_BYTES) for float16, name in names.items()}
    for float16, library in found.items():
        if hashlib.sha256(library).hexdigest() != digests.get(names[float16]):
            raise OSError(f"{names[float16]}.so is damaged")
    return found


def _level() -> Level | None:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return level_of(platform.machine(), processor_flags(cpuinfo))


def compiling_is_asked_for() -> bool:
    """Whether :data:`VARIABLE` is set; raises ConfigError if its value is neither 0 nor 1."""
    value = os.environ.get(VARIABLE) or "0"
    if value not in ("0", "1"):
        raise ConfigError(f"the environment variable {VARIABLE} is 0 or 1, not {value[:200]!r}")
    return value == "1"
