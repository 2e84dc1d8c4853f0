"""From labelled images to batches: addressed augmentation, and a count of the images that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from transxnet.data.images import BadImageError
from transxnet.data.randomness import addressed_randomness, seed_for
from transxnet.data.sources import ImageSource
from transxnet.errors import DataError

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
    """The addresses (epoch, index) of an epoch, shuffled by (seed, epoch) or in order.

    Lightning calls :meth:`set_epoch`.
    """

    def __init__(self, length: int, *, seed: int = 0, shuffle: bool = False) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order: Sequence[int] = range(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed_for(self.seed, self.epoch) % 2**63)
            order = torch.randperm(self.length, generator=generator).tolist()
        return iter([(self.epoch, index) for index in order])


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


def make_loader(
    dataset: LabelledImages, batch_size: int, *, train: bool = False, seed: int = 0, workers: int = 0
) -> DataLoader[Any]:
    """Batches in a shuffled order that the seed and the epoch decide, or in order.

    In training the last incomplete batch is left out, unless it is the only one.
    """
    return DataLoader(
        dataset,
        batch_size,
        sampler=AddressSampler(len(dataset), seed=seed, shuffle=train),
        num_workers=workers,
        collate_fn=collate,
        drop_last=train and len(dataset) >= batch_size,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A fork of a process that computes with threads can hang.
        multiprocessing_context="forkserver" if workers else None,
    )


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

    def add(self, bad: Sequence[tuple[str, str]]) -> list[str]:
        """Count bad images; returns a line for each new one.

        Raises:
            DataError: If they are more than the share allows.
        """
        new = [f"{name}: {reason}" for name, reason in bad if name not in self.reasons]
        self.reasons.update(bad)
        if len(self.reasons) > self.share * self.total:
            listed = "; ".join(f"{name} ({reason})" for name, reason in list(self.reasons.items())[:10])
            raise DataError(
                f"{len(self.reasons)} of {self.total} images cannot be used, more than --max-bad {self.share:g} "
                f"allows: {listed}. Mend or remove them, or allow more"
            )
        return new
