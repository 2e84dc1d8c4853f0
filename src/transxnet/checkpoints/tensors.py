"""Checks of stored tensors: dense, real, finite, and of a number type that fits the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from transxnet.errors import CheckpointError

_WHOLE_FLOATS = 2.0**53  # float64 represents every integer up to here


def check_kinds(weights: Mapping[str, Tensor], source: str, *, shapes_only: bool = False) -> None:
    """Refuse tensors of unsupported kinds.

    Args:
        weights: Tensors by name.
        source: Source of the weights, for messages.
        shapes_only: Whether they were read without their values, as meta tensors.

    Raises:
        CheckpointError: If one is sparse, quantised, nested, complex or, unexpectedly, a meta tensor.
    """
    for name, tensor in weights.items():
        kind = _kind(tensor)
        if kind and not (shapes_only and kind == "meta"):
            raise CheckpointError(
                f"{source}: {name} is a {kind} tensor; save the weights as ordinary tensors of floating point numbers"
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_complex():
        return "complex"
    return "meta" if tensor.is_meta else ""


def check_sizes(weights: Mapping[str, Tensor], size: int, source: str) -> None:
    """Refuse tensors that are larger than their file.

    Args:
        weights: Tensors by name; may be meta tensors.
        size: Size of the file in bytes.
        source: Source of the weights, for messages.

    Raises:
        CheckpointError: If one tensor, or all together, would take more bytes than the file has.
    """
    total = 0
    for name, tensor in weights.items():
        total += (needed := tensor.numel() * tensor.element_size())
        if needed > size:
            raise CheckpointError(
                f"{source} ({size:,} bytes): {name} claims {needed:,} bytes for its shape {tuple(tensor.shape)}, more "
                "than the file has"
            )
    if total > size:
        raise CheckpointError(
            f"{source} ({size:,} bytes): its tensors claim {total:,} bytes together, more than the file has"
        )


def check_storages(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that repeat their values by strides.

    Raises:
        CheckpointError: If a tensor has more values than its storage.
    """
    for name, tensor in weights.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{source}: {name} repeats its values by strides {tensor.stride()}; save contiguous tensors"
            )


def check_values(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Refuse values that do not fit the network's entries, as documented in docs/networks.md.

    Args:
        weights: Tensors by name.
        expected: The network's own entries, for their number types; missing ones count as floating point.
        source: Source of the weights, for messages.

    Raises:
        CheckpointError: If an entry's number type does not fit the network's, or it has NaN, infinite or
            too large values, a counter that is not an integer, or a negative variance.
    """
    for name, tensor in weights.items():
        own = expected[name].dtype if name in expected else torch.float32
        problem = _floating_problem(name, tensor, own) if own.is_floating_point else _whole_problem(tensor)
        if problem:
            raise CheckpointError(f"{source}: {name} {problem}")


def _floating_problem(name: str, tensor: Tensor, own: torch.dtype) -> str:
    if not tensor.dtype.is_floating_point:
        return f"is {_type(tensor)}, but the network needs floating point numbers"
    if not tensor.numel():
        return ""
    # One pass, in a tenth of isfinite's time; NaN propagates to both extremes.
    low, high = (float(value) for value in (tensor if tensor.itemsize > 1 else tensor.float()).aminmax())
    largest = torch.finfo(own).max
    if not (-largest <= low and high <= largest):
        bad = int((~(tensor.double().abs() <= largest)).sum())
        return (
            f"has {bad:,} values of {tensor.numel():,} that are NaN, infinite or too large for {_type(own)}: the "
            "training diverged or the file is damaged; take an earlier checkpoint"
        )
    if name.endswith("running_var") and low < 0:
        return f"has a negative variance ({low:g}): the file is damaged; copy it again"
    return ""


def _whole_problem(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return f"is {_type(tensor)}, but the network needs a counter"
    if tensor.dtype.is_floating_point:
        values = tensor.double()
        if not bool(((values == values.floor()) & (values.abs() <= _WHOLE_FLOATS)).all()):
            return "is a counter, but not an integer"
    return "is a negative counter" if bool((tensor.double() < 0).any()) else ""


def _type(of: Tensor | torch.dtype) -> str:
    return str(of.dtype if isinstance(of, Tensor) else of).removeprefix("torch.")
