"""Who computes the operators: PyTorch, or kernels of our own."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from transxnet.errors import ConfigError

Policy = Literal["auto", "reference", "native"]
"""Who computes the operators.

- ``reference``: PyTorch.
- ``native``: our kernels wherever there is one for the tensors, and PyTorch elsewhere.
- ``auto``: PyTorch, but in training on a CPU, where there are compiled kernels or a C++ compiler, as ``native``: a
  training run looks for them and asks for ``native``; nothing else waits for a compiler.

Compiled, traced and exported networks contain PyTorch's operations with each of them.
"""

VARIABLE = "TRANSXNET_KERNELS"
"""The environment variable that holds the policy outside :func:`use`; it is read once."""

_chosen: ContextVar[Policy | None] = ContextVar("_chosen", default=None)


@contextmanager
def use(policy: Policy) -> Iterator[None]:
    """Compute the operators by a policy inside the context, in this thread.

    Raises:
        ConfigError: If the policy is unknown, or ``native`` and there are neither compiled kernels nor a C++
            compiler.
    """
    _check(policy, "the policy of kernels")
    if policy == "native":
        _load()
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

    What only records operations (the compiler, a trace, a tensor without values) sees PyTorch's.
    """
    return (
        not torch.compiler.is_compiling()
        and (_chosen.get() or _environment()) == "native"
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


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
