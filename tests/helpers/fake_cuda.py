"""Networks on a CUDA device without a GPU: tensors without values, autocast, and gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

NEEDS_FAKES = pytest.mark.skipif(
    torch.__version__.startswith("2.9."), reason="PyTorch 2.9 asks for a driver for tensors without values"
)


def on_cuda(network: Any) -> Any:
    """Give a network weights on a CUDA device, inside a FakeTensorMode; it may have been made outside."""
    for module in network.modules():
        for name, one in list(module._parameters.items()):
            if one is not None:
                module._parameters[name] = nn.Parameter(_like(one), requires_grad=one.requires_grad)
        for name, one in list(module._buffers.items()):
            if one is not None:
                module._buffers[name] = _like(one)
    return network


def _like(one: Tensor) -> Tensor:
    return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cuda")


@contextmanager
def cuda_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast on CUDA devices, which ``torch.autocast`` disables without a GPU; none for None."""
    if dtype is None:
        yield
        return
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_dtype("cuda", before)
        torch.set_autocast_enabled("cuda", False)


def backward(outputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Gradients of the sum of outputs by ``id`` of each leaf; PyTorch's engine asks for a device."""
    waiting: dict[Any, int] = defaultdict(int)
    roots = [(one.grad_fn, one.output_nr) for one in outputs if one.grad_fn is not None]
    seen: set[Any] = {root for root, _ in roots}
    stack: list[Any] = [root for root, _ in roots]
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None:
                waiting[child] += 1
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
    given: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    for (node, index), one in zip(roots, outputs, strict=True):
        _add(given[node], index, torch.ones_like(one))
    ready: list[Any] = [node for node in dict.fromkeys(root for root, _ in roots) if not waiting[node]]
    leaves: dict[int, Tensor] = {}
    while ready:
        node = ready.pop()
        gradients = _checked(node, given.pop(node, {}))
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = gradients[0]
            continue
        found = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
        found = found if isinstance(found, tuple) else (found,)
        for (child, index), gradient in zip(node.next_functions, found, strict=False):
            if child is None:
                continue
            if gradient is not None:
                _add(given[child], index, gradient)
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return leaves


def _add(sums: dict[int, Tensor], index: int, gradient: Tensor) -> None:
    sums[index] = sums[index] + gradient if index in sums else gradient


def _checked(node: Any, gradients: dict[int, Tensor]) -> list[Any]:
    """Gradients of a node's outputs, whose devices and shapes must be the outputs'."""
    rows: list[Any] = []
    for index, metadata in enumerate(node._input_metadata):
        one = gradients.get(index)
        if one is not None:
            assert one.device == metadata.device, (node.name(), one.device)
            assert not one.is_floating_point() or one.numel() >= torch.Size(metadata.shape).numel(), node.name()
            one = one.sum_to_size(metadata.shape).to(metadata.dtype)
        rows.append(one)
    return rows
