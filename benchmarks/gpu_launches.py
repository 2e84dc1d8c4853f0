"""The launches of the package's Triton kernels, recorded where nothing can be launched.

An operator's launching code is run with tensors without values on a CUDA device that need not exist. A launch reads or
writes each tensor it is given once: a lower bound where tiles overlap or programs share a tensor, which caches serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gpu_fakes import described_devices
from transxnet.kernels import composite
from transxnet.kernels.operators.registration import CUDA, _parts


class Launch(NamedTuple):
    """A kernel with its arguments, by position and by name."""

    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__).removeprefix("_")

    @property
    def bytes(self) -> int:
        """Bytes of the tensors; one that is given several times counts once."""
        given = [one for one in tree_leaves((self.args, self.options)) if isinstance(one, Tensor)]
        return size(list({(x.storage_offset(), tuple(x.shape), id(x.untyped_storage())): x for x in given}.values()))


def size(*given: Any) -> int:
    """Bytes of all tensors in some arguments; broadcast axes count once."""
    total = 0
    for x in tree_leaves(given):
        if isinstance(x, Tensor):
            count = x.element_size()
            for length, step in zip(x.shape, x.stride(), strict=True):
                count *= 1 if step == 0 else length
            total += count
    return total


@contextmanager
def recorded(record: Callable[[Launch], None]) -> Iterator[None]:
    """Record launches inside it instead of launching."""
    from triton.runtime.jit import KernelInterface

    def launch(self: Any, grid: Any) -> Any:
        return lambda *args, **options: record(Launch(self, args, options))

    def address(x: Tensor) -> int:
        return x.storage_offset() * x.element_size()

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(KernelInterface, "__getitem__", launch))
        patches.enter_context(mock.patch.object(Tensor, "data_ptr", address))
        patches.enter_context(described_devices())
        yield


def run(name: str, args: Any, record: Callable[[Launch], None] | None) -> Any:
    """Compute an operator of ``torch.ops.transxnet`` as on a CUDA device, and record its launches.

    Args:
        name: The operator.
        args: Its arguments, with tensors without values on any device.
        record: Called for each launch.

    Returns:
        What the operator returns.
    """
    operator, function = _parts(name)
    args = tree_map(on_cuda, args)
    if operator not in CUDA or args[0].dtype == torch.float64:
        return getattr(composite, name)(*args)
    with recorded(record) if record else nullcontext():
        return getattr(import_module(f"transxnet.kernels.cuda.{CUDA[operator]}"), function)(*args)


def on_cuda(x: Any) -> Any:
    """A tensor without values like another, on the CUDA device; anything else as it is."""
    if not isinstance(x, Tensor) or x.device.type == "cuda":
        return x
    base = torch.empty(x.untyped_storage().nbytes() // x.element_size(), dtype=x.dtype, device="cuda")
    return base.as_strided(x.shape, x.stride(), x.storage_offset())
