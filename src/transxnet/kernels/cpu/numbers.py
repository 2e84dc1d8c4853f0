"""What the kernels compute in, and what maps are stored as."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from transxnet.errors import ConfigError
from transxnet.kernels.cpu.build import has_float16, library

TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""What maps can be stored as."""


def check(x: Tensor) -> None:
    """Raise ConfigError if a map is not on a CPU, is of another type, or wants a gradient."""
    if x.device.type != "cpu" or x.dtype not in TYPES:
        raise ConfigError(
            "a network fused with native kernels takes float32, bfloat16 or float16 maps on a CPU, not "
            f"{x.dtype} on {x.device}"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigError("a network fused with native kernels gives no gradients; use the network it was made from")


def computed(run: Callable[[torch.dtype], Tensor], stored: torch.dtype, suits: Callable[[], bool]) -> Tensor:
    """What is computed in float16, or in float32 where that has not the digits.

    Maps of 16 bits are computed in float16 if the processor does so, for its products are twice as fast as those of
    float32. What is larger than 65504 on the way comes out as infinite or not a number; then it is computed again.

    Args:
        run: What computes in the type that it is told.
        stored: What the maps are stored as.
        suits: Whether float16 has digits for the constants.
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
    """A kernel that computes in float32 or float16; what it takes is for the caller to know.

    Raises:
        ConfigError: If the compiler that made the kernels has not the type that maps are stored as.
    """
    try:
        found: Callable[..., int] = library(number == torch.float16)[name]
    except AttributeError:
        stored = name.rpartition("_")[2]
        raise ConfigError(
            f"the C++ compiler that the native kernels were compiled with has no {stored}: use another type, or a "
            "newer compiler"
        ) from None
    return found
