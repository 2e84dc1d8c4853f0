"""Types of computation and storage."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from transxnet.errors import ConfigError
from transxnet.kernels.cpu.build import has_float16, library

TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Types in which maps can be stored."""


def check(x: Tensor) -> None:
    """Raise ConfigError if a map is not on a CPU, has another type, or requires a gradient."""
    if x.device.type != "cpu" or x.dtype not in TYPES:
        raise ConfigError(
            "a network fused with native kernels takes float32, bfloat16 or float16 maps on a CPU, not "
            f"{x.dtype} on {x.device}"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigError("a network fused with native kernels has no gradients; use the original network")


def computed(run: Callable[[torch.dtype], Tensor], stored: torch.dtype, suits: Callable[[], bool]) -> Tensor:
    """Compute in float16, or in float32 where float16 lacks range or precision.

    16-bit maps are computed in float16 if the processor supports it, whose products are twice as fast as float32's.
    Intermediate values above 65504 give infinite or NaN outputs, which are then computed again in float32.

    Args:
        run: Computes in the given type.
        stored: Type in which maps are stored.
        suits: Whether float16 can represent the constants.
    """
    if stored != torch.float32 and has_float16() and suits():
        out = run(torch.float16)
        if function(f"finite_{TYPES[stored]}", torch.float16)(
            ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(out.numel()), ctypes.c_int(torch.get_num_threads())
        ):
            return out
    return run(torch.float32)


@functools.cache
def function(name: str, number: torch.dtype) -> Callable[..., int]:
    """A kernel that computes in float32 or float16; the caller sets its argument types.

    Raises:
        ConfigError: If the compiler of the kernels does not support the storage type.
    """
    try:
        found: Callable[..., int] = library(number == torch.float16)[name]
    except AttributeError:
        stored = name.rpartition("_")[2]
        raise ConfigError(
            f"the C++ compiler of the native kernels does not support {stored}: use another type, or a newer compiler"
        ) from None
    return found
