"""Batch normalisations in two processes that synchronise their statistics."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers.processes import FORKED
from transxnet import kernels
from transxnet.layers import GELU, BatchNorm2d, Sequential, synchronise_statistics

MODES = ("plain", "compiled", "triton")
"""PyTorch's operations, the same in a compiled network, and the kernels for CUDA devices by Triton's interpreter."""

SHARES = (slice(0, 2), slice(2, 3))
"""The images of each process: not equally many, and of one process a single one."""


def network() -> Any:
    """Normalisations with GELU before, after and without it, and one of pooled maps, a single value of each image."""
    torch.manual_seed(0)
    norms = [BatchNorm2d(6) for _ in range(3)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    middle = (GELU(), nn.Conv2d(6, 6, 1, bias=False))
    return Sequential(
        nn.Conv2d(3, 6, 1), GELU(), norms[0], *middle, norms[1], GELU(), nn.AdaptiveAvgPool2d(1), norms[2]
    ).train()


def batch() -> Tensor:
    """Images that differ, since each channel of the last map has one value of each to normalise."""
    images = torch.randn(3, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    return images + torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None]


def step(model: Any, run: Any, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics of a step whose loss is a sum over the images."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = run(x)
    weights = torch.linspace(-1, 1, 6, dtype=y.dtype)[:, None, None]
    (y.sin() * weights).sum().backward()  # the squares of what is normalised add up to a constant
    left = {"output": y.detach(), "gradient of the input": x.grad}
    left |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return left | {f"buffer {name}": buffer for name, buffer in model.named_buffers()}


def in_two(folder: Path) -> dict[str, list[dict[str, Tensor]]]:
    """What each process is left with, in every mode."""
    processes = [FORKED.Process(target=_run, args=(folder, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return {mode: [torch.load(folder / f"{mode}{rank}") for rank in range(2)] for mode in MODES}


def _run(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    made = network()
    for mode in MODES:
        model = copy.deepcopy(made)
        synchronise_statistics(model)
        run = torch.compile(model, fullgraph=True, backend="eager") if mode == "compiled" else model
        with kernels.use("triton" if mode == "triton" else "auto"):
            torch.save(step(model, run, batch()[SHARES[rank]]), folder / f"{mode}{rank}")
    dist.destroy_process_group()
