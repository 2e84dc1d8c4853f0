"""The kernels compiled for this processor, once."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from transxnet.errors import ConfigError
from transxnet.files import cache_folder, replacing

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-std=c++17")


_FLOAT16 = ("-DFLOAT16",)


@functools.cache
def library(float16: bool = False) -> ctypes.CDLL:
    """The compiled kernels of this package, from the user's cache or compiled now, which takes some seconds.

    The environment's CXX names the compiler; by itself it is g++, or what there is of c++ and clang++.

    Args:
        float16: Those that compute in float16, if :func:`has_float16`, in place of float32.

    Raises:
        ConfigError: If there is no compiler, or it cannot compile them.
    """
    with as_file(files("transxnet.kernels.cpu")) as folder:
        sources = sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h"))
        compiler = _compiler()
        flags = _FLAGS + float16 * _FLOAT16
        parts = [compiler.encode(), *map(str.encode, flags), _processor(), *(path.read_bytes() for path in sources)]
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        built = cache_folder() / f"kernels-{key}.so"
        if not built.is_file():
            with replacing(built) as path:
                _compile(compiler, flags, folder / "kernels.cpp", path)
    return ctypes.CDLL(str(built))


def _compiler() -> str:
    given = os.environ.get("CXX")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    if found is None:
        raise ConfigError(
            f"the native kernels need a C++ compiler, and there is no {given or 'g++'} here: install one (on Debian, "
            "apt install g++), or do without them"
        )
    return found


@functools.cache
def has_float16() -> bool:
    """Whether processor and compiler have float16's products, as AVX512-FP16 does."""
    command = [_compiler(), "-march=native", "-dM", "-E", "-x", "c", os.devnull]
    return "__AVX512FP16__" in subprocess.run(command, capture_output=True, check=False, text=True).stdout


def _compile(compiler: str, flags: Sequence[str], source: Path, path: Path) -> None:
    command = [compiler, *flags, str(source), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        first = next((line for line in told if "error" in line), told[0])
        raise ConfigError(f"{compiler} cannot compile the native kernels: {first}")


def _processor() -> bytes:
    """What tells processors apart: code for one of them does not run on every other."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *dict.fromkeys(kept or lines)]).encode()
