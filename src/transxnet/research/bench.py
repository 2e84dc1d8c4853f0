"""Throughput and latency of networks, measured in turns, so that a machine's moods fall on all of them."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transxnet.bounds import BatchSize, Rounds, Seconds, checked
from transxnet.errors import ConfigError
from transxnet.research.accuracy import Published, published
from transxnet.research.machine import peak_memory
from transxnet.research.modes import MODES, Run
from transxnet.research.networks import Network

Precision = Literal["fp32", "bf16"]
"""``bf16`` is PyTorch's autocast: weights stay in float32."""


@dataclass(frozen=True)
class Candidate:
    """A network and how it is run."""

    network: Network
    mode: str
    precision: Precision


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Spread:
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Speed:
    """What was measured of a candidate.

    Attributes:
        candidate: Which.
        batch_size: Images in a batch.
        image_size: Height and width in pixels.
        seconds: For each round, the time of one batch.
        images_per_second: Median and quartiles over the rounds.
        latency: The same for a batch, in milliseconds.
        ratio: Speed over the first candidate's in the same round: median and quartiles of the rounds' ratios.
        memory: Bytes of the weights and of the most that a pass holds beside them.
    """

    candidate: Candidate
    batch_size: int
    image_size: tuple[int, int]
    seconds: tuple[float, ...]
    images_per_second: Spread
    latency: Spread
    ratio: Spread
    memory: int

    @property
    def published(self) -> Published | None:
        """The network's row of Table II; None if it has none."""
        return published(self.candidate.network.name)


def measure_speed(
    candidates: Sequence[Candidate],
    batch_size: int,
    *,
    rounds: int = 30,
    min_seconds: float = 0.1,
    device: str = "cpu",
    advance: Callable[[], None] = lambda: None,
) -> list[Speed]:
    """Time candidates in turns: each round times every one, forwards and backwards in alternation.

    Every candidate is first run until it takes a steady course (compilation is not timed). A timing
    is of as many batches in a row as take ``min_seconds``. Comparing within a round cancels what
    slows a whole round down.

    Args:
        candidates: The first is what the others are compared with.
        batch_size: Images in a batch; they are random numbers, already on the device.
        rounds: Timings of each candidate; an even number, so that each order counts as often.
        min_seconds: Least duration of a timing.
        device: PyTorch's name of a device.
        advance: Called after every timing, and after every candidate's preparation.

    Raises:
        ConfigError: If a number is out of range, or memory does not suffice.
    """
    for name, value, kind in (
        ("batch_size", batch_size, BatchSize),
        ("rounds", rounds, Rounds),
        ("min_seconds", min_seconds, Seconds),
    ):
        checked(name, value, kind)
    calls, repeats, memories = [], [], []
    for candidate in candidates:
        call, memory = _prepare(candidate, batch_size, device)
        calls.append(call)
        memories.append(memory)
        repeats.append(max(1, math.ceil(min_seconds / min(_time(call, 1, device) for _ in range(2)))))
        advance()
    seconds = np.zeros((rounds, len(candidates)))
    gc.collect()
    for number in range(rounds):
        order = range(len(candidates))
        for place in order if number % 2 == 0 else reversed(order):
            seconds[number, place] = _time(calls[place], repeats[place], device)
            advance()
    return [
        Speed(
            candidate,
            batch_size,
            candidate.network.input_size[1:],
            tuple(times.tolist()),
            Spread.of(batch_size / times),
            Spread.of(1000 * times),
            Spread.of(seconds[:, 0] / times),
            memory,
        )
        for candidate, times, memory in zip(candidates, seconds.T, memories, strict=True)
    ]


def _prepare(candidate: Candidate, batch_size: int, device: str) -> tuple[Callable[[], Any], int]:
    """Something to time, warmed up, and its memory in bytes."""
    model = copy.deepcopy(candidate.network.model).eval().to(device)  # a mode may change its network
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, *candidate.network.input_size, generator=generator).to(device)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    try:
        with torch.inference_mode():
            run = MODES[candidate.mode](model, images)
        call = _call(run, images, candidate.precision, device)
        for _ in range(3):
            call()
        return call, weights + peak_memory(call, device)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:160]
        name = f"{candidate.network.name} ({candidate.mode}, {candidate.precision}, batch {batch_size})"
        raise ConfigError(f"{name} does not run here: {reason}") from error


def _call(run: Run, images: Tensor, precision: Precision, device: str) -> Callable[[], Any]:
    kind = torch.device(device).type

    def call() -> Any:
        context = torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.inference_mode(), context:
            return run(images)

    return call


def _time(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds of one call, the mean of several in a row."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
