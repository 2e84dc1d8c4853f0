"""Which images a process takes when, as a function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from transxnet.data.randomness import seed_for
from transxnet.errors import ConfigError


class AddressSampler(Sampler[tuple[int, int]]):
    """The addresses (pass, index) that one process takes in an epoch.

    In training, the images of all are shuffled by (seed, pass) and dealt out in batches: of every
    ``world_size`` batches, process ``rank`` takes the one at its place, so that more processes see
    what one process sees that accumulates as many batches. Steps that are not full are left out.
    An epoch is one pass, or ``epoch_steps`` steps of one pass after another. In evaluation, every
    image is seen by exactly one process, in order.

    Lightning calls :meth:`set_epoch`.

    Args:
        length: Number of images.
        batch_size: Images that a process takes at once.
        seed: Decides the order.
        train: Whether to shuffle, and to leave out the last incomplete step.
        batches_per_step: Batches of one process in a step.
        epoch_steps: Steps in a training epoch; 0 for one pass over the images.
        groups: A number for each image; in training, a batch has images of one group as far as
            they go, so that upright pictures need not be padded for lying ones.
        rank: This process.
        world_size: All processes.

    Raises:
        ConfigError: If there are fewer images than several processes take in a step.
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
            raise ConfigError(f"{length} images cannot be shared out to {world_size} devices; take fewer")
        step = batch_size * batches_per_step * world_size
        if train and length < step and world_size > 1:
            raise ConfigError(
                f"a step takes {step} images on {world_size} devices, but there are {length} to learn from"
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
        """This process's batches in an epoch."""
        return -(-len(self) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.train:
            addresses = self._epoch()
            if self.world_size > 1:
                batches = range(self.rank * self.batch_size, len(addresses), self.world_size * self.batch_size)
                addresses = [address for at in batches for address in addresses[at : at + self.batch_size]]
        else:
            addresses = [(self.epoch, index) for index in range(self.rank, self.images, self.world_size)]
        first, self.first_batch = self.first_batch * self.batch_size, 0
        return iter(addresses[first:])

    def _epoch(self) -> list[tuple[int, int]]:
        """All processes' addresses of an epoch: a window of the passes, which follow each other."""
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
    """The same indices, in batches of one group; what fills no batch comes last."""
    grouped: list[int] = []
    waiting: dict[int, list[int]] = {}
    for index in order:
        batch = waiting.setdefault(groups[index], [])
        batch.append(index)
        if len(batch) == batch_size:
            grouped += batch
            batch.clear()
    return grouped + [index for batch in waiting.values() for index in batch]
