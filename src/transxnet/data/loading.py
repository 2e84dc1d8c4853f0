"""From labelled images to batches: addressed augmentation, and a count of the images that fail."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from transxnet.data.images import BadImageError
from transxnet.data.randomness import addressed_randomness, seed_for
from transxnet.data.sources import ImageSource
from transxnet.errors import ConfigError, DataError

Transform = Callable[[Image.Image], Tensor]


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images: (B, C, H, W), normalised.
        targets: (B), class indices.
        indices: (B), places of the images in their source.
        bad: Name of and reason for each image that could not be used.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]


class _Sample(NamedTuple):
    image: Tensor | None
    target: int
    place: int
    bad: list[tuple[str, str]]


class LabelledImages(Dataset[_Sample]):
    """Transformed images, addressed by (epoch, index).

    Args:
        source: The images.
        transform: From an RGB image to a tensor (C, H, W).
        seed: With epoch and index, the address of a sample's randomness.
        replace_bad: Put the next usable image in a bad one's place, so that batches stay full;
            otherwise the place stays empty.
    """

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int = 0, replace_bad: bool = False) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.replace_bad = replace_bad

    def __len__(self) -> int:
        return len(self.source.targets)

    def __getitem__(self, address: tuple[int, int]) -> _Sample:
        epoch, index = address
        bad = []
        for step in range(len(self) if self.replace_bad else 1):
            place = (index + step) % len(self)
            try:
                image = self.source.load(place)
            except BadImageError as error:
                bad.append((error.path, error.reason))
                continue
            with addressed_randomness(self.seed, epoch, index):
                return _Sample(self.transform(image), self.source.targets[place], place, bad)
        return _Sample(None, -1, index, bad)


class AddressSampler(Sampler[tuple[int, int]]):
    """The addresses (epoch, index) that one process takes in an epoch.

    In training, the images of all are shuffled by (seed, epoch) and dealt out in batches: of every
    ``world_size`` batches, process ``rank`` takes the one at its place, so that more processes see
    what one process sees that accumulates as many batches. Steps that are not full are left out.
    In evaluation, every image is seen by exactly one process, in order.

    Lightning calls :meth:`set_epoch`.

    Args:
        length: Number of images.
        batch_size: Images that a process takes at once.
        seed: Decides the order.
        train: Whether to shuffle, and to leave out the last incomplete step.
        batches_per_step: Batches of one process in a step.
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
        self.used = length // step * step if train and length >= step else length

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
            generator = torch.Generator().manual_seed(seed_for(self.seed, self.epoch) % 2**63)
            order = torch.randperm(self.images, generator=generator)[: self.used]
            if self.world_size > 1:
                order = order.view(-1, self.world_size, self.batch_size)[:, self.rank].flatten()
        else:
            order = torch.arange(self.rank, self.images, self.world_size)
        first, self.first_batch = self.first_batch * self.batch_size, 0
        return iter([(self.epoch, index) for index in order[first:].tolist()])


def collate(samples: Sequence[_Sample]) -> Batch:
    """One batch of the usable samples, with the names of the others; it may hold no image."""
    usable = [sample for sample in samples if sample.image is not None]
    images = [sample.image for sample in usable if sample.image is not None]
    return Batch(
        torch.stack(images) if images else torch.empty(0),
        torch.tensor([sample.target for sample in usable], dtype=torch.long),
        torch.tensor([sample.place for sample in usable], dtype=torch.long),
        [bad for sample in samples for bad in sample.bad],
    )


class ResumableLoader(DataLoader[Any]):
    """A loader that can start in the middle of an epoch.

    Since a sample depends on its address alone, the position is two numbers, whatever the number
    of worker processes, and images before it are not read again. (torchdata's stateful loader
    keeps the workers' states instead, and wants as many workers as before.)

    Args:
        dataset: The images.
        sampler: The addresses.
        settings: PyTorch's.
    """

    def __init__(self, dataset: LabelledImages, sampler: AddressSampler, **settings: Any) -> None:
        super().__init__(dataset, sampler.batch_size, sampler=sampler, **settings)
        self.addresses = sampler
        self._position = 0

    def __len__(self) -> int:
        return self.addresses.batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._position = self.addresses.first_batch
        for batch in super().__iter__():
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The next batch's place."""
        epoch, position = self.addresses.epoch, self._position
        whole = position == len(self)
        return {"epoch": epoch + whole, "batch": 0 if whole else position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next pass starts where the state says."""
        self.addresses.set_epoch(state["epoch"])
        self.addresses.first_batch = state["batch"]


def make_loader(
    dataset: LabelledImages,
    batch_size: int,
    *,
    train: bool = False,
    seed: int = 0,
    workers: int = 0,
    batches_per_step: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> ResumableLoader:
    """Batches in an order that the seed and the epoch decide, or in order; see :class:`AddressSampler`."""
    sampler = AddressSampler(
        len(dataset),
        batch_size,
        seed=seed,
        train=train,
        batches_per_step=batches_per_step,
        rank=rank,
        world_size=world_size,
    )
    return ResumableLoader(
        dataset,
        sampler,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **worker_settings(workers),
    )


def _end_with_parent(worker: int) -> None:
    """A worker whose run was killed ends; PyTorch's own watch sees only the process that forked it."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worker_settings(workers: int) -> dict[str, Any]:
    """A PyTorch loader's settings for so many processes.

    They are forked from a process that has imported this module and computed nothing: a fork of a
    process that computes with threads can hang, and a fresh one takes seconds to import PyTorch.
    They end when the process that they work for is killed.
    """
    if not workers:
        return {"num_workers": 0}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return {"num_workers": workers, "multiprocessing_context": context, "worker_init_fn": _end_with_parent}


@dataclass
class BadImages:
    """The images that could not be used, up to a share of all.

    Attributes:
        total: All images.
        share: The share of them that may be bad.
        reasons: Name and reason of each one found.
    """

    total: int
    share: float
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, bad: Sequence[tuple[str, str]]) -> None:
        """Count bad images.

        Raises:
            DataError: If they are more than the share allows.
        """
        self.reasons.update(bad)
        self.check()

    def check(self) -> None:
        """Raise DataError if there are more than the share allows."""
        if len(self.reasons) > self.share * self.total:
            listed = "; ".join(f"{name} ({reason})" for name, reason in list(self.reasons.items())[:10])
            raise DataError(
                f"{len(self.reasons)} of {self.total} images cannot be used, more than --max-bad {self.share:g} "
                f"allows: {listed}. Mend or remove them, or allow more"
            )
