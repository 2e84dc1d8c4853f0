"""Loading the kernels: those that a wheel has compiled, or kernels compiled here for this processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from transxnet.kernels.cpu import cache, layouts, levels, openmp, prebuilt
from transxnet.kernels.cpu.compiler import Compiler, compiled, find_compiler, macros, short, version
from transxnet.kernels.cpu.shared_library import load

_FLAGS = (*levels.FLAGS, "-march=native", "-shared")
_SYMBOLS = ("size_of_Block", "block_room", "blocks_bfloat16")
_FLOAT16_SYMBOLS = (
    "blocks_float16", "convolution_bfloat16", "convolution_float16", "finite_bfloat16", "finite_float16",
)  # fmt: skip
_FLOAT32_SYMBOLS = (
    "blocks_float32", "depthwise_float32", "kernel_gradient_float32", "attention_room", "attention_float32",
    "attention_gradients_float32", "batch_norm_float32", "batch_norm_gradients_float32", "scale_gradients_float32",
    "gelu_float32", "gelu_gradient_float32",
)  # fmt: skip
_loading = threading.RLock()


def library(float16: bool = False) -> ctypes.CDLL:
    """The kernels of this package: from the wheel, from the user's cache, or compiled now, which takes some seconds.

    The environment variable CXX sets the compiler and its arguments; the default is g++, c++ or clang++. An entry of
    the cache is loaded only if no other user can have written it (:mod:`.cache`); otherwise the kernels are compiled in
    a private temporary folder, and stored in the cache if possible.

    Args:
        float16: Whether to load the kernels for float16, if :func:`has_float16`, instead of float32.

    Raises:
        ConfigError: If the installation has no kernels for this processor, and there is no compiler, or it cannot
            compile them.
    """
    with _loading:  # other threads wait for the first one's library
        return _library(float16)


@functools.cache
def _library(float16: bool) -> ctypes.CDLL:
    ready = _prebuilt().get(float16)
    if ready is not None:
        return ready
    with as_file(files("transxnet.kernels.cpu")) as folder:
        return built(folder / "kernels.cpp", _FLAGS + levels.FLOAT16 * float16, functools.partial(_check, float16))


def is_ready() -> bool:
    """Whether :func:`library` compiles nothing: the kernels are the wheel's, or in the user's cache.

    Raises:
        ConfigError: If there are none, and no compiler.
    """
    with _loading:
        if False in _prebuilt():
            return True
    with as_file(files("transxnet.kernels.cpu")) as folder:
        return cache.read(_entry(find_compiler(), _FLAGS, folder / "kernels.cpp")) is not None


@functools.cache
def has_float16() -> bool:
    """Whether processor and kernels support float16 arithmetic (AVX512-FP16).

    Raises:
        ConfigError: If the kernels are to be compiled, and there is no compiler, or it does not respond.
    """
    with _loading:
        ready = _prebuilt()
    return True in ready if ready else "__AVX512FP16__" in macros(find_compiler(), ["-march=native"])


@functools.cache
def _prebuilt() -> Mapping[bool, ctypes.CDLL]:
    """The wheel's kernels for this processor, by whether they compute in float16; empty if they are to be compiled."""
    with as_file(files("transxnet.kernels.cpu")) as folder:
        try:
            found = prebuilt.libraries(folder)
            return {float16: _loaded(data, functools.partial(_check, float16)) for float16, data in found.items()}
        except OSError as error:
            warnings.warn(
                f"the compiled kernels of this installation cannot be used ({short(str(error))}), so they are compiled "
                "here; installing the package again repairs it",
                stacklevel=2,
            )
            return {}


def _check(float16: bool, kernels: ctypes.CDLL) -> None:
    check_symbols(kernels, (*_SYMBOLS, *(_FLOAT16_SYMBOLS if float16 else _FLOAT32_SYMBOLS)))
    check_sizes(kernels, layouts.SHARED if float16 else (*layouts.SHARED, *layouts.FLOAT32))


def built(source: Path, flags: Sequence[str], check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    """A library compiled from a source file and the headers beside it, from the user's cache or compiled now.

    Args:
        source: The source file.
        flags: Flags of the compiler for a shared library.
        check: Raises OSError for a wrong library.

    Raises:
        ConfigError: If there is no compiler, or it produces no library that can be loaded.
    """
    compiler = find_compiler()
    name = _entry(compiler, flags, source)
    kept = cache.read(name)
    if kept is not None:
        try:
            return _loaded(kept, check)
        except OSError:  # it depends on a missing library, or is not ours
            pass
    made = compiled(compiler, flags, source)
    try:
        kernels = _loaded(made, check)
    except OSError as error:
        raise compiler.error(f"produces a library that cannot be used: {short(str(error))}") from None
    refused = cache.keep(name, made)
    if refused is not None:
        warnings.warn(f"compiled kernels cannot be cached, so each process compiles them: {refused}", stacklevel=2)
    return kernels


def _loaded(data: bytes, check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    openmp.share()
    kernels = load(data)
    check(kernels)
    return kernels


def check_symbols(kernels: ctypes.CDLL, symbols: Sequence[str]) -> None:
    """Raise OSError if a library lacks a function."""
    missing = [name for name in symbols if not hasattr(kernels, name)]
    if missing:
        raise OSError(f"it lacks {missing[0]}")


def check_sizes(kernels: ctypes.CDLL, structures: Sequence[type[ctypes.Structure]]) -> None:
    """Raise OSError if the structures of a library have other sizes than Python's."""
    for structure in structures:
        size_of = kernels[f"size_of_{structure.__name__}"]
        size_of.argtypes, size_of.restype = (), ctypes.c_int64
        if (size := size_of()) != (expected := ctypes.sizeof(structure)):
            raise OSError(f"its {structure.__name__} has {size} bytes, not {expected}")


def _entry(compiler: Compiler, flags: Sequence[str], source: Path) -> str:
    """A library's name in the cache."""
    return f"kernels-{_key(compiler, flags, source)}.so"


def _key(compiler: Compiler, flags: Sequence[str], source: Path) -> str:
    """A digest of everything that affects a library: sources, flags, compiler, C library and processor."""
    parts = [*compiler.command, version(compiler), *flags, *platform.libc_ver(), _processor()]
    parts.append(levels.digest(source.parent))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


@functools.cache
def _processor() -> str:
    """A description of the processor, since code for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *dict.fromkeys(kept or lines)])
