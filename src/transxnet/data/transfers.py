"""Copies to and from a device, and the time that a network takes there, without waiting for a GPU at each batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HELD_BYTES = 2**26  # of outputs that stay on a device until they are copied together


def to_network(images: Tensor, model: nn.Module, device: str) -> Tensor:
    """Images (B, C, H, W) on a network's device, in its weights' type; on a GPU with the channels last in memory.

    From pinned memory, in which loaders put batches for a GPU, they are copied while the host goes on.
    """
    dtype = compute_type(model)
    if torch.device(device).type != "cuda":
        return images.to(device, dtype)
    # Converted there, since the host would convert a copy otherwise.
    return images.to(device, non_blocking=True).to(dtype, memory_format=torch.channels_last)


def compute_type(model: nn.Module) -> torch.dtype:
    """The type that a network computes in: its weights'; float32 for an exported one, which has none here."""
    return next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU; a GPU is waited for once."""
    copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
    for device in {tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return copies


class Outputs:
    """Outputs of batches, which stay on a device up to 64 MiB and are then copied together."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._copied: list[Tensor] = []

    def add(self, output: Tensor) -> None:
        """Add a batch's (B, ...)."""
        self._held.append(output)
        if output.device.type != "cpu" and sum(one.nbytes for one in self._held) >= _HELD_BYTES:
            self._copy()

    def all(self) -> list[Tensor]:
        """All outputs in order, on the CPU."""
        self._copy()
        return self._copied

    def _copy(self) -> None:
        if self._held:
            self._copied.append(torch.cat(self._held).cpu())
            self._held = []


class NetworkTime:
    """Time spent in a network: by the clock on a CPU, and on a GPU by events, which the host does not wait for.

    Args:
        device: PyTorch's name of the device.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of what is computed inside the context."""
        if self._device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self._device)
        first.record(stream)
        yield
        last.record(stream)
        self._events.append((first, last))

    @property
    def seconds(self) -> float:
        """The sum so far; a GPU is waited for."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(first.elapsed_time(last) for first, last in self._events) / 1000
            self._events = []
        return self._seconds
