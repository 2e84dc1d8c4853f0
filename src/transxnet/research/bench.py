"""Throughput and latency of networks that take turns, so that slowdowns of the machine affect all of them."""

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

Precision = Literal["fp32", "bf16", "bf16_weights"]
"""``bf16`` uses PyTorch's autocast: weights stay in float32. ``bf16_weights`` converts network and images."""


@dataclass(frozen=True)
class Candidate:
    """A network with a mode and a precision."""

    network: Network
    mode: str
    precision: Precision


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Spread:
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Speed:
    """Measurements of a candidate.

    Attributes:
        candidate: The candidate.
        batch_size: Images in a batch.
        image_size: Height and width in pixels.
        seconds: Time of one batch in each round.
        images_per_second: Median and quartiles over the rounds.
        latency: Time of one batch in milliseconds, median and quartiles.
        ratio: Speed relative to the first candidate's in the same round, median and quartiles.
        memory: Bytes of the weights and of a pass's peak memory beside them.
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
    """Time candidates in rounds; each round times every candidate, in alternating order.

    Candidates are warmed up first, so compilation is not timed. A timing covers as many consecutive
    batches as take ``min_seconds``. Comparing within rounds cancels slowdowns of whole rounds.

    Args:
        candidates: The candidates; the first is the reference.
        batch_size: Images in a batch; random numbers, already on the device.
        rounds: Timings of each candidate; even, so that both orders are used equally often.
        min_seconds: Minimum duration of a timing.
        device: PyTorch's name of a device.
        advance: Called after each timing, and after preparing each candidate.

    Raises:
        ConfigError: If a number is out of range, or a candidate cannot be run.
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
        for index in order if number % 2 == 0 else reversed(order):
            seconds[number, index] = _time(calls[index], repeats[index], device)
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
    """A warmed-up call to time, and its memory in bytes."""
    model = copy.deepcopy(candidate.network.model).eval().to(device)  # a mode may change its network
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, *candidate.network.input_size, generator=generator).to(device)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if candidate.precision == "bf16_weights":
        images, weights = images.bfloat16(), weights // 2
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
        raise ConfigError(f"{name} cannot be run: {reason}") from error


def _call(run: Run, images: Tensor, precision: Precision, device: str) -> Callable[[], Any]:
    kind = torch.device(device).type

    def call() -> Any:
        context = torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.inference_mode(), context:
            return run(images)

    return call


def _time(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds per call, the mean of consecutive calls."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
