"""Who computes the operators: PyTorch, or kernels of our own."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from transxnet.errors import ConfigError

Policy = Literal["auto", "reference", "native", "triton"]
"""Who computes the operators.

- ``reference``: PyTorch.
- ``native``: our kernels wherever there is one for the tensors, and PyTorch elsewhere.
- ``auto``: on CUDA devices as ``native``. On CPUs PyTorch, but in training, where there are compiled kernels or a C++
  compiler, as ``native``: a training run looks for them and asks for ``native``; nothing else waits for a compiler.
- ``triton``: the kernels for CUDA devices, on CPUs too, where Triton's interpreter runs them (``TRITON_INTERPRET=1`` in
  the environment): slow, to test and debug them.

Networks compiled for a CPU contain PyTorch's operations (but with ``triton``), those compiled for CUDA devices the
operators. Traced and exported networks contain PyTorch's operations everywhere.
"""

VARIABLE = "TRANSXNET_KERNELS"
"""The environment variable that holds the policy outside :func:`use`; it is read once."""

OLDEST_CAPABILITY = (8, 0)
"""Compute capability from which the kernels for CUDA devices are used: Ampere."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of tensors that the kernels for CUDA devices take."""

_chosen: ContextVar[Policy | None] = ContextVar("_chosen", default=None)


@contextmanager
def use(policy: Policy) -> Iterator[None]:
    """Compute the operators by a policy inside the context, in this thread.

    Raises:
        ConfigError: If the policy is unknown, ``native`` and there are neither compiled kernels nor a C++
            compiler, or ``triton`` without Triton.
    """
    _check(policy, "the policy of kernels")
    if policy == "native":
        _load()
    if policy == "triton" and not has_triton():
        raise ConfigError("the kernels for CUDA devices need Triton, which PyTorch's packages for them install")
    token = _chosen.set(policy)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_policy() -> Policy:
    """The policy in force: that of :func:`use`, or the environment's, or ``auto``.

    Raises:
        ConfigError: If the environment's is unknown.
    """
    return _chosen.get() or _environment()


def native_available() -> bool:
    """Whether there are kernels for CPUs; they are compiled if they have not been, which takes some seconds.

    Raises:
        ConfigError: If the environment variable that asks to compile them has another value than 0 or 1.
    """
    from transxnet.kernels.cpu.prebuilt import compiling_is_asked_for

    compiling_is_asked_for()
    try:
        _load()
    except ConfigError:
        return False
    return True


def is_native(x: Tensor) -> bool:
    """Whether operators of a tensor are computed by our kernels: now, here and for its device and type.

    What is exported or traced contains PyTorch's operations, and so does what is compiled for a CPU.
    """
    if is_for_cuda(x):
        return is_triton(x)
    return (
        not torch.compiler.is_compiling()
        and _policy() == "native"
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def is_for_cuda(x: Tensor) -> bool:
    """Whether the kernels of a tensor, if it has any, are those for CUDA devices."""
    if not isinstance(x, Tensor):  # torch.fx traces with objects of its own
        return False
    return x.device.type == "cuda" or (x.device.type == "cpu" and _policy() == "triton")


def is_triton(x: Tensor) -> bool:
    """Whether operators of a tensor are computed by the kernels for CUDA devices; see :func:`is_native`."""
    return (
        is_for_cuda(x)
        and x.dtype in TYPES
        and not _is_exporting()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and _policy() != "reference"
        and _has_triton(x.device.index if x.device.type == "cuda" else None)
    )


def _constant(function: Callable[..., Any]) -> Any:
    """Keep what a function returns while a network is compiled as a constant of it.

    As ``torch.compiler.assume_constant_result``, whose import takes a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _is_exporting() -> bool:
    """Whether a network is being exported; called by name, it is true in all that PyTorch 2.9 compiles."""
    return torch.compiler.is_exporting()


@_constant
def _has_triton(device: int | None) -> bool:
    return has_triton(device)


@_constant
def _policy() -> Policy:
    return _chosen.get() or _environment()


@functools.cache
def has_triton(device: int | None = None) -> bool:
    """Whether the kernels for CUDA devices can be used.

    Triton has to be installed, for NVIDIA's devices, with the C compiler and Python's headers by which it makes its
    launchers.

    Args:
        device: Index of a device, which has to be recent enough.
    """
    if importlib.util.find_spec("triton") is None or torch.version.hip is not None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1" or device is None or device >= torch.cuda.device_count():
        return True
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    compiles = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    if not (compiles and Path(sysconfig.get_path("include"), "Python.h").is_file()):
        warnings.warn(
            "PyTorch computes the operators: the kernels for CUDA devices need a C compiler and Python's headers for "
            "Triton (on Debian gcc and python3-dev)",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def _environment() -> Policy:
    value = os.environ.get(VARIABLE) or "auto"
    _check(value, f"the environment variable {VARIABLE}")
    return cast(Policy, value)


def _check(value: str, name: str) -> None:
    if value not in get_args(Policy):
        raise ConfigError(f"{name} is one of {', '.join(get_args(Policy))}, not {value!r}")


def _load() -> None:
    from transxnet.kernels.cpu.build import library

    library()
