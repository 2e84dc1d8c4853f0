"""Random damage to files, deterministic for a seed."""

from __future__ import annotations

import copy
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from helpers.forked import MEMORY

DAMAGES = int(os.environ.get("DAMAGES", "2000"))
"""Number of random damages per format."""

_EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_KINDS: tuple[Callable[[np.random.Generator], Any], ...] = (
    lambda generator: None,
    lambda generator: bool(generator.integers(2)),
    lambda generator: int(generator.integers(-3, 4)),
    lambda generator: 10 ** int(generator.integers(3, 40)),
    lambda generator: -(10 ** int(generator.integers(1, 20))),
    lambda generator: float(generator.normal()),
    lambda generator: float(generator.choice([np.nan, np.inf, -np.inf, 1e308])),
    lambda generator: "",
    lambda generator: str(generator.choice(["x", "5", "../x", "/etc/passwd", "\0", "\n", "é", "."])),
    lambda generator: generator.choice(["\ud800", "\udcff"]).item(),
    lambda generator: "y" * int(generator.integers(200, 6000)),
    lambda generator: [],
    lambda generator: {},
    lambda generator: [1, "2", None],
    lambda generator: {"id": 1, "name": []},
    lambda generator: nested(int(generator.integers(1, 200))),
)


def nested(levels: int) -> list[Any]:
    """Nested lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def spoilt(content: bytes, generator: np.random.Generator) -> bytes:
    """Make one to four changes to bytes: overwrite, remove, insert, repeat or truncate."""
    changed = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        at = int(generator.integers(len(changed) + 1))
        length = int(generator.choice([1, 1, 2, 4, 8, 40]))
        noise = generator.bytes(length)
        extreme = int(generator.choice(len(_EXTREMES)))
        number = _EXTREMES[extreme].to_bytes(8, "little" if generator.integers(2) else "big")
        weights = np.array([5, 2, 2, 2, 2, 1, 1])
        match int(generator.choice(len(weights), p=weights / weights.sum())):
            case 0:
                changed[at : at + length] = noise
            case 1:
                changed[at : at + 8] = number
            case 2:
                changed[at : at + 4] = number[2:6]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = noise
            case 5:
                changed[at:at] = changed[at : at + 600]
            case 6:
                del changed[at:]
    return bytes(changed)


def altered(value: Any, generator: np.random.Generator) -> Any:
    """Replace, remove or repeat one to three values of a JSON value."""
    value = copy.deepcopy(value)
    for _ in range(generator.integers(1, 4)):
        slots = list(_slots(value))
        if not slots:
            break
        holder, key = slots[generator.integers(len(slots))]
        change = generator.integers(8)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif change == 2 and isinstance(holder, dict):
            holder[str(key) + "2"] = holder.pop(key)
        else:
            holder[key] = _KINDS[generator.integers(len(_KINDS))](generator)
    return value


def _slots(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _slots(item)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Limit this process to 4 GiB more memory than it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
