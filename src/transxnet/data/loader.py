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
from torch.utils.data import DataLoader, Dataset

from transxnet.bounds import BatchSize, Share, Workers, checked
from transxnet.data.images import BadImageError
from transxnet.data.randomness import addressed_randomness
from transxnet.data.sampling import AddressSampler
from transxnet.data.sources import ImageSource
from transxnet.errors import DataError

Transform = Callable[[Image.Image], Tensor]

Advance = Callable[[int], None]
"""Called with the number of images that have just been dealt with."""


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


class Sample(NamedTuple):
    """One place of a batch.

    Attributes:
        content: What the task makes of an image; None if it could not be used.
        place: The image's place in its source.
        bad: Name of and reason for each image that could not be used.
    """

    content: Any
    place: int
    bad: list[tuple[str, str]]


class AddressedImages(Dataset[Sample]):
    """Images made ready for a step, addressed by (pass, index).

    A task says how an image is read and how it is varied.

    Args:
        length: Number of images.
        seed: With pass and index, the address of a sample's randomness.
        replace_bad: Put the next usable image in a bad one's place, so that batches stay full;
            otherwise the place stays empty.
    """

    def __init__(self, length: int, *, seed: int = 0, replace_bad: bool = False) -> None:
        self.length = length
        self.seed = seed
        self.replace_bad = replace_bad

    def __len__(self) -> int:
        return self.length

    def read(self, place: int) -> Any:
        """What is stored of an image; raises BadImageError if it cannot be used."""
        raise NotImplementedError

    def vary(self, stored: Any, place: int) -> Any:
        """What the network gets of it; the global random generators start at the sample's address."""
        raise NotImplementedError

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        epoch, index = address
        bad = []
        for step in range(len(self) if self.replace_bad else 1):
            place = (index + step) % len(self)
            try:
                stored = self.read(place)
            except BadImageError as error:
                bad.append((error.path, error.reason))
                continue
            with addressed_randomness(self.seed, epoch, index):
                return Sample(self.vary(stored, place), place, bad)
        return Sample(None, index, bad)


class LabelledImages(AddressedImages):
    """Transformed images with their class indices.

    Args:
        source: The images.
        transform: From an RGB image to a tensor (C, H, W).
        seed: With pass and index, the address of a sample's randomness.
        replace_bad: As of :class:`AddressedImages`.
    """

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int = 0, replace_bad: bool = False) -> None:
        super().__init__(len(source.targets), seed=seed, replace_bad=replace_bad)
        self.source = source
        self.transform = transform

    def read(self, place: int) -> Image.Image:
        return self.source.load(place)

    def vary(self, stored: Image.Image, place: int) -> tuple[Tensor, int]:
        return self.transform(stored), self.source.targets[place]


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of the usable samples, with the names of the others; it may hold no image."""
    contents = [sample.content for sample in samples if sample.content is not None]
    return Batch(
        torch.stack([image for image, _ in contents]) if contents else torch.empty(0),
        torch.tensor([target for _, target in contents], dtype=torch.long),
        *places_of(samples),
    )


def places_of(samples: Sequence[Sample]) -> tuple[Tensor, list[tuple[str, str]]]:
    """Places (B) of the usable samples, and name and reason of what could not be used."""
    places = [sample.place for sample in samples if sample.content is not None]
    return torch.tensor(places, dtype=torch.long), [bad for sample in samples for bad in sample.bad]


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

    def __init__(self, dataset: AddressedImages, sampler: AddressSampler, **settings: Any) -> None:
        super().__init__(dataset, sampler.batch_size, sampler=sampler, **settings)
        self.addresses = sampler
        self._position = 0

    def __len__(self) -> int:
        return self.addresses.batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
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
    dataset: AddressedImages,
    batch_size: int,
    *,
    workers: int = 0,
    collate: Callable[[Sequence[Sample]], Any] = collate,
    **sampling: Any,
) -> ResumableLoader:
    """Batches in an order that the seed and the epoch decide, or in order.

    Args:
        dataset: The images.
        batch_size: Images that a process takes at once.
        workers: Processes that read images.
        collate: Makes a batch of samples.
        **sampling: Of :class:`AddressSampler`.

    Raises:
        ConfigError: If a number is out of range, or there are fewer images than processes.
    """
    checked("batch_size", batch_size, BatchSize)
    return ResumableLoader(
        dataset,
        AddressSampler(len(dataset), batch_size, **sampling),
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
    They end when the process that they work for is killed. Raises ConfigError for a number out of range.
    """
    if not checked("workers", workers, Workers):
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

    def __post_init__(self) -> None:
        checked("max_bad", self.share, Share)

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
