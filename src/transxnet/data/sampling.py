"""Order and distribution of images over processes, as a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from transxnet.data.randomness import seed_for
from transxnet.errors import ConfigError


class AddressSampler(Sampler[tuple[int, int]]):
    """Sampler of the addresses (pass, index) of one process in an epoch.

    In training, images are shuffled by (seed, pass) and distributed in batches: of every
    ``world_size`` batches, process ``rank`` takes the one at its position. Several processes thus use
    the same images as one that accumulates as many batches. Incomplete steps are dropped. An epoch is
    one pass, or ``epoch_steps`` steps of successive passes. In evaluation, each image is used by
    exactly one process, in order.

    Lightning calls :meth:`set_epoch`.

    Args:
        length: Number of images.
        batch_size: Images per batch of a process.
        seed: Seed of the order.
        train: Whether to shuffle, and to drop the last incomplete step.
        batches_per_step: Batches per step of a process.
        epoch_steps: Steps in a training epoch; 0 for one pass over the images.
        groups: The group of each image; training batches are of one group as far as possible, so that
            portraits need not be padded to landscapes.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ConfigError: If there are fewer images than several processes need for a step.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        train: bool = False,
        batches_per_step: int = 1,
        epoch_steps: int = 0,
        groups: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = length
        self.batch_size = batch_size
        self.seed = seed
        self.train = train
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0
        if length < world_size:
            raise ConfigError(f"{length} images cannot be distributed to {world_size} devices; use fewer devices")
        step = batch_size * batches_per_step * world_size
        if train and length < step and world_size > 1:
            raise ConfigError(
                f"a step takes {step} images on {world_size} devices, but there are only {length} training images"
            )
        # A set smaller than one step is one step.
        self.pass_length = length // step * step if train and length >= step else length
        self.used = epoch_steps * step if train and epoch_steps else self.pass_length
        self.groups = groups

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.train:
            return self.used // self.world_size
        return len(range(self.rank, self.images, self.world_size))

    @property
    def batches(self) -> int:
        """Number of batches of this process in an epoch."""
        return -(-len(self) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.train:
            addresses = self._epoch()
            if self.world_size > 1:
                batches = range(self.rank * self.batch_size, len(addresses), self.world_size * self.batch_size)
                addresses = [address for start in batches for address in addresses[start : start + self.batch_size]]
        else:
            addresses = [(self.epoch, index) for index in range(self.rank, self.images, self.world_size)]
        first, self.first_batch = self.first_batch * self.batch_size, 0
        return iter(addresses[first:])

    def _epoch(self) -> list[tuple[int, int]]:
        """The addresses of an epoch for all processes: a window of the sequence of passes."""
        start = self.epoch * self.used
        passes = range(start // self.pass_length, -(-(start + self.used) // self.pass_length))
        addresses = [(number, index) for number in passes for index in self._pass(number)]
        first = start - passes.start * self.pass_length
        return addresses[first : first + self.used]

    def _pass(self, number: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, number) % 2**63)
        order = torch.randperm(self.images, generator=generator).tolist()
        if self.groups is not None:
            order = _grouped(order, self.groups, self.batch_size)
        return order[: self.pass_length]


def _grouped(order: Sequence[int], groups: Sequence[int], batch_size: int) -> list[int]:
    """Reorder indices into batches of one group; incomplete batches come last."""
    grouped: list[int] = []
    waiting: dict[int, list[int]] = {}
    for index in order:
        batch = waiting.setdefault(groups[index], [])
        batch.append(index)
        if len(batch) == batch_size:
            grouped += batch
            batch.clear()
    return grouped + [index for batch in waiting.values() for index in batch]
