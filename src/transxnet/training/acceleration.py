"""Settings of PyTorch during a run: compiled networks, and arithmetic of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from transxnet.model import Block
from transxnet.training.recipe import Recipe

_RECOMPILE_LIMIT = 256  # blocks share their code: each stage, mode and size of batch counts, and PyTorch's limit is 8


@contextmanager
def accelerated(network: nn.Module, recipe: Recipe, *, gpu: bool) -> Iterator[None]:
    """Compile a network as a recipe asks for, and let GPUs use TF32; everything is as before afterwards.

    Names in the state dict, and copies of the network, are those of the network that is not compiled.

    Args:
        network: The network, which compiles itself when it is first called.
        recipe: The settings.
        gpu: Whether the run is on GPUs.
    """
    with ExitStack() as stack:
        if recipe.compile:
            stack.enter_context(_compiled(network, recipe))
        if gpu:
            stack.enter_context(_fast_arithmetic(benchmark=recipe.fixed_size))
        yield


@contextmanager
def _compiled(network: nn.Module, recipe: Recipe) -> Iterator[None]:
    import torch._dynamo  # takes seconds

    blocks = [module for module in network.modules() if isinstance(module, Block)]
    parts = [network] if recipe.compile == "network" else blocks
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT, accumulated_recompile_limit=4 * _RECOMPILE_LIMIT):
        for part in parts:
            part.compile(dynamic=False)
        try:
            yield
        finally:
            for part in parts:
                part._compiled_call_impl = None


@contextmanager
def _fast_arithmetic(*, benchmark: bool) -> Iterator[None]:
    """TF32 in products of float32, and with ``benchmark`` a search for the fastest convolution of each size."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]
