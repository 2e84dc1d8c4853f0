"""Random numbers that depend only on an address, such as (seed, epoch, index)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(*address: int) -> int:
    """A 64-bit seed for an address of non-negative integers."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0])


@contextmanager
def addressed_randomness(*address: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's global generators by an address, and restore them afterwards.

    A sample's augmentation is then the same in any process and at any time.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (timm draws from it)
    seed = seed_for(*address)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
