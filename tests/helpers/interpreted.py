"""Triton's interpreter, which computes the kernels for CUDA devices where there is none."""

from __future__ import annotations

import inspect
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def find_builtins_once() -> None:
    """Remember what the interpreter replaces in Triton's language, which it looks for anew at each call of a kernel."""
    names: dict[Any, list[str]] = {}

    def patch(package: Any, *rest: Any) -> None:
        if package not in names:
            names[package] = [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]
        for name in names[package]:
            if tl.core.is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, *rest)

    vars(interpreter)["_patch_builtin"] = patch
