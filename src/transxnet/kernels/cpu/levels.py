"""Levels of processors that a wheel has compiled kernels for, and the record that belongs to the kernels.

The build (setup.py) loads this file alone, so it imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = "compiled"
"""The folder of a wheel's libraries and their record, beside the sources."""

RECORD = "record.json"

FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=c++17", "-Wno-psabi")
"""Flags of the compiler for all kernels; the last one since vectors are passed within a library only."""

FLOAT16 = ("-DFLOAT16",)
"""Flags of the compiler for kernels that compute in float16."""

LIBRARIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": ("-march=x86-64-v3",),
        "avx512": ("-march=x86-64-v4", "-mtune=sapphirerapids"),
        "avx512-fp16": ("-march=x86-64-v4", "-mavx512fp16", "-mtune=sapphirerapids", *FLOAT16),
    },
    "aarch64": {"neon": ("-march=armv8-a",)},
}
"""Compiled libraries by machine and name, with their flags of the compiler beside :data:`FLAGS`."""

_V2 = frozenset({"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


class Level(NamedTuple):
    """A level of processors.

    Attributes:
        flags: Features of such a processor, by their names in /proc/cpuinfo.
        float32: Name of the library that computes in float32.
        float16: Name of the library that computes in float16, if such a processor does.
    """

    flags: frozenset[str]
    float32: str
    float16: str | None = None


LEVELS: Mapping[str, tuple[Level, ...]] = {
    "x86_64": (
        Level(_V4 | {"avx512_fp16"}, "avx512", "avx512-fp16"),
        Level(_V4, "avx512"),
        Level(_V3, "avx2"),
    ),
    "aarch64": (Level(frozenset({"fp", "asimd"}), "neon"),),
}
"""Levels by machine, the highest first."""


def level_of(machine: str, flags: frozenset[str]) -> Level | None:
    """The highest level of a processor; None if it has none.

    Args:
        machine: As from :func:`platform.machine`.
        flags: Its flags, as from :func:`processor_flags`.
    """
    return next((level for level in LEVELS.get(machine, ()) if level.flags <= flags), None)


def processor_flags(cpuinfo: str) -> frozenset[str]:
    """The flags that all processors in the text of /proc/cpuinfo have."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()


def sources_of(folder: Path) -> list[Path]:
    """The C++ files in a folder, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h"))


def digest(folder: Path) -> str:
    """A SHA-256 of the names and contents of the C++ files in a folder."""
    names = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in sources_of(folder))
    return hashlib.sha256(names.encode()).hexdigest()


def write_record(sources: Path, libraries: Iterable[Path]) -> None:
    """Record which sources libraries were compiled from, and the libraries' SHA-256, beside them."""
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in libraries}
    record = {"sources": digest(sources), "libraries": digests}
    (sources / FOLDER / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
