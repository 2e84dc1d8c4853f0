"""Passes of a network in training, recorded as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe


@contextmanager
def recorded(network: nn.Module, recipe: Recipe, report: Callable[[str], None]) -> Iterator[None]:
    """Record a network's forward and backward pass when it is first called in training, and replay them from then on.

    A step launches thousands of kernels one by one, which takes a processor longer than most of them take a GPU; a
    graph launches all at once. Evaluation, batches of another shape, and runs of several processes are as without.

    Args:
        network: The network.
        recipe: The settings.
        report: Takes a line if recording fails; the run then goes on without.

    Raises:
        ConfigError: If the recipe asks for it and there are several processes.
    """
    if recipe.cuda_graph is True and _is_distributed():
        raise ConfigError("cuda_graph goes with one process; leave it out")
    network._compiled_call_impl = _Recorded(network, report)
    try:
        yield
    finally:
        network._compiled_call_impl = None


class _Pass(nn.Module):
    """Calls a network as if it were not recorded; PyTorch replaces its ``forward``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network._call_impl(images)


class _Recorded:
    """Calls a network, in training by graphs of its passes for the shape of the first batch."""

    def __init__(self, network: nn.Module, report: Callable[[str], None]) -> None:
        self.network = network
        self.report = report
        self.passes: Any = None
        self.given: tuple[Any, ...] | None = None

    def __call__(self, images: Tensor) -> Any:
        if not (self.network.training and torch.is_grad_enabled() and images.is_cuda) or _is_distributed():
            return self.network._call_impl(images)
        given = (images.shape, images.stride(), images.dtype, images.device, torch.is_autocast_enabled("cuda"))
        if self.given is None:
            self.given = given
            self._record(images)
        if self.passes is None or given != self.given:
            return self.network._call_impl(images)
        return self.passes(images)

    def _record(self, images: Tensor) -> None:
        """Passes before the recording, which choose algorithms, leave statistics and random numbers as they were."""
        buffers = list(self.network.buffers())
        before, random = [one.clone() for one in buffers], torch.cuda.get_rng_state(images.device)
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        try:
            # A cache of converted weights would keep those of the recording.
            with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
                self.passes = torch.cuda.make_graphed_callables(_Pass(self.network), (images,))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.report(f"the passes were not recorded as a CUDA graph: {str(error).splitlines()[0]}")
        finally:
            for one, old in zip(buffers, before, strict=True):
                one.copy_(old)
            torch.cuda.set_rng_state(random, images.device)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
