"""Random numbers that depend on an address, such as (seed, epoch, index), and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(*address: int) -> int:
    """A seed of 64 bits for an address of non-negative numbers."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0])


@contextmanager
def addressed_randomness(*address: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global generators start at the address, then go on as before.

    So a sample's augmentation is the same whichever process draws it, and after what.
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
