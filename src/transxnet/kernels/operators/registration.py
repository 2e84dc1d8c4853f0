"""How operators are registered with PyTorch: schema, kernels by device, shapes, gradients."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from transxnet.errors import ConfigError
from transxnet.kernels import composite
from transxnet.kernels.policy import current_policy, has_triton

CPU: dict[str, Any] = {}
"""The module with an operator's kernel for CPUs, which has a ``forward`` and a ``backward``, by the operator's name."""

CUDA: dict[str, str] = {}
"""The same for CUDA devices: a module of :mod:`transxnet.kernels.cuda`, by name, imported when it is first needed."""

_library = torch.library.Library("transxnet", "DEF")
_compute: dict[str, Callable[..., Any]] = {}
"""How each operator is computed on a CPU."""

_differentiable: dict[str, Callable[..., Any]] = {}
"""The same, with a gradient."""


def define(*schemas: str) -> None:
    """Define operators, and how they are computed on each device."""
    for schema in schemas:
        _library.define(schema)
        name = schema.partition("(")[0]
        _compute[name] = _on_cpu(name)
        _library.impl(name, getattr(composite, name), "CompositeExplicitAutograd")
        _library.impl(name, _compute[name], "CPU")
        _library.impl(name, _on_cuda(name), "CUDA")


def _parts(name: str) -> tuple[str, str]:
    """The operator of a name and the function that computes it in the modules with kernels."""
    return name.removesuffix("_backward"), "backward" if name.endswith("_backward") else "forward"


def _on_cpu(name: str) -> Callable[..., Any]:
    """An operator of float32 tensors by its kernel, and of others as elsewhere."""
    operator, function = _parts(name)
    otherwise, interpreted = getattr(composite, name), _on_cuda(name)

    def compute(*given: Any) -> Any:
        if current_policy() == "triton":
            return interpreted(*given)  # by Triton's interpreter
        tensors = [one for one in given if isinstance(one, Tensor)]
        if name.endswith("batch_norm_backward"):
            tensors.pop()  # the statistics are float64
        if operator not in CPU or given[0].numel() == 0 or any(one.dtype != torch.float32 for one in tensors):
            return otherwise(*given)
        return getattr(CPU[operator], function)(*given)

    return compute


def _on_cuda(name: str) -> Callable[..., Any]:
    """An operator by its kernel in Triton, and as elsewhere if there is none."""
    operator, function = _parts(name)
    otherwise = getattr(composite, name)

    def compute(*given: Any) -> Any:
        x = given[0]
        device = x.device
        index = device.index if device.type == "cuda" else None
        if operator not in CUDA or x.numel() == 0 or x.dtype == torch.float64 or not has_triton(index):
            return otherwise(*given)
        if index is None:
            _check_interpreter()
        kernel = _kernel(CUDA[operator], function)
        elsewhere = index is not None and index != torch.cuda.current_device()
        if not elsewhere and not torch.is_autocast_enabled(device.type):  # contexts take as long as a launch
            return kernel(*given)
        current = torch.cuda.device(device) if elsewhere else nullcontext()  # where Triton launches
        with current, torch.autocast(device.type, enabled=False):
            return kernel(*given)

    return compute


def _check_interpreter() -> None:
    """Raise ConfigError if Triton's interpreter, which computes tensors on a CPU, is off."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            'on a CPU the kernels "triton" are computed by Triton\'s interpreter: set TRITON_INTERPRET=1 in the '
            "environment before Triton is imported"
        )


@functools.cache
def _kernel(module: str, function: str) -> Callable[..., Any]:
    return getattr(import_module(f"transxnet.kernels.cuda.{module}"), function)  # type: ignore[no-any-return]


def shapes(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what an operator returns for tensors without values."""
    return torch.library.register_fake(f"transxnet::{name}", lib=_library)  # type: ignore[no-any-return]


def gradients(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register an operator's gradients. What ``torch.library.register_autograd`` makes of them calls the dispatcher
    four times, which takes as long as a small map's kernel; plain tensors go to the kernels at once here.
    """
    operator, kernel = getattr(torch.ops.transxnet, name).default, _compute[name]

    def below(*given: Any) -> Any:
        if _is_plain(given[0]):
            return kernel(*given)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*given)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            output = below(*given)
            setup(ctx, given, output)
            return output

    Function.__name__ = Function.__qualname__ = name  # as profilers show it
    Function.backward = staticmethod(backward)  # type: ignore[method-assign]

    def compute(*given: Any) -> Any:
        differentiable = torch.is_grad_enabled() and torch._C._any_requires_grad(*given)
        return Function.apply(*given) if differentiable else below(*given)

    _differentiable[name] = compute
    _library.impl(name, compute, "Autograd")
    torch.library.register_autograd(f"transxnet::{name}_backward", _refuse, lib=_library)


def gradients_of(name: str, *given: Any) -> Any:
    """Call an operator's ``backward``."""
    if _is_plain(given[0]) and not torch.is_grad_enabled():
        return _compute[f"{name}_backward"](*given)
    return getattr(torch.ops.transxnet, f"{name}_backward").default(*given)


def _is_plain(x: Tensor) -> bool:
    """Whether a tensor is on a CPU, and nothing records or transforms what is done with it."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and _get_current_dispatch_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def caller(name: str) -> Callable[..., Any]:
    """An operator to call; plain tensors do without the dispatcher, which takes as long as a small map's kernel."""
    operator, direct = getattr(torch.ops.transxnet, name).default, _differentiable[name]

    def call(*given: Any) -> Any:
        plain = not torch.compiler.is_compiling() and _is_plain(given[0])
        return direct(*given) if plain else operator(*given)

    return call


def _refuse(ctx: Any, *gradients: Tensor) -> Any:
    raise RuntimeError(
        "the gradients of TransXNet's kernels cannot be differentiated again; compute them with "
        "transxnet.kernels.use('reference')"
    )


def last(x: Tensor) -> Tensor:
    """A tensor without values like a map, with the channels last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def if_wanted(wanted: bool, like: Tensor, *, channels_last: bool = False) -> Tensor:
    """A gradient without values, which is empty if it is not asked for."""
    return (last(like) if channels_last else torch.empty_like(like)) if wanted else like.new_empty(0)
