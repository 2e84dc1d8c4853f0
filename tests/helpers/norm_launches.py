"""Representative launches of the kernels of normalisations and residual sums, to compile without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transxnet.kernels.cuda import batch_norm, group_norm, residual

MAPS = ("x", "y", "gradient", "back", "branch")
DOUBLES = ("statistics", "sums")
FLOATS = ("weight", "bias", "partials", "running_mean", "running_var", "new_mean", "new_var", "of_weight", "of_bias",
          "keep")  # fmt: skip
UNALIGNED = ("rows", "parts", "batch", "area", "per_part", "tiles")
"""Integers that are not known to be multiples of 16; of the others, channels and steps, the networks' often are."""

Launch = tuple[str, Any, dict[str, str], dict[str, Any], list[str]]


def launches() -> Iterator[Launch]:
    """Name, kernel, types of arguments, constants, and arguments that are multiples of 16."""
    settings = {"MOMENTUM": 0.1, "EPS": 1e-5}
    for kind in ("bf16", "fp16", "fp32"):
        for wide in (32, 64):
            sizes = {"ROWS": 2048 // wide, "CHANNELS": wide, "VECTOR": 8}
            for order in ("none", "before", "after"):
                for kernel in (batch_norm._statistics, batch_norm._normalise, batch_norm._sum_gradients):
                    yield _launch(kernel, kind, {"ORDER": order, **sizes})
                for alone in (True, False):
                    half = {**sizes, "ROWS": 1024 // wide}
                    yield _launch(batch_norm._input_gradient, kind, {"ORDER": order, "ALONE": alone, **half})
            yield _launch(group_norm._statistics, kind, sizes)
            yield _launch(group_norm._normalise, kind, {"EPS": 1e-5, "PROGRAMS": 64, **sizes})
            yield _launch(group_norm._sum_gradients, kind, sizes, doubles=("statistics",))
            yield _launch(group_norm._input_gradient, kind, {"PROGRAMS": 64, **sizes}, doubles=("statistics",))
            yield _launch(residual._add, kind, {"SCALED": True, "KEPT": True, **sizes})
            yield _launch(residual._gradients, kind, {"SCALED": True, "KEPT": True, "OF_BRANCH": True, **sizes})
    for alone in (True, False):
        yield _launch(batch_norm._combine, "fp32", {"ALONE": alone, **settings, **batch_norm.COMBINED})
    yield _launch(batch_norm._finish, "fp32", {"CHANNELS": batch_norm.COMBINED["CHANNELS"], **settings})
    yield _launch(batch_norm._combine_gradients, "fp32", batch_norm.COMBINED)


def _launch(kernel: Any, kind: str, constants: dict[str, Any], doubles: tuple[str, ...] = DOUBLES) -> Launch:
    types = {}
    for name in kernel.arg_names:
        if name in MAPS:
            types[name] = f"*{kind}"
        elif name in doubles:
            types[name] = "*fp64"
        elif name in FLOATS or name in DOUBLES:
            types[name] = "*fp32"
        elif name not in constants:
            types[name] = "i32"
    aligned = [name for name in types if name not in UNALIGNED]
    module = kernel.__module__.rpartition(".")[2]
    label = " ".join(f"{key}={value}" for key, value in constants.items())
    return f"{module}.{kernel.__name__} {kind} {label}", kernel, types, constants, aligned
