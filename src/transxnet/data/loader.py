"""Batches of images, with addressed augmentation and counts of unusable images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transxnet.bounds import BatchSize, Share, Workers, checked
from transxnet.data.images.pixel_values import bands_fault
from transxnet.data.images.reading import BadImageError
from transxnet.data.randomness import addressed_randomness
from transxnet.data.sampling import AddressSampler
from transxnet.data.sources import ImageSource
from transxnet.data.worker_processes import set_up_worker, worker_context
from transxnet.errors import DataError

_PREFETCHED = 4  # batches that each worker reads ahead for a GPU; PyTorch's default is 2

Transform = Callable[[Image.Image], Tensor]

Advance = Callable[[int], None]
"""Called with the number of images just processed."""


class Batch(NamedTuple):
    """A batch of labelled images.

    Attributes:
        images: (B, C, H, W), normalised; or uint8, to be normalised on a GPU.
        targets: (B), class indices.
        indices: (B), indices of the images in their source.
        bad: Name and reason for each unusable image.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]


class Sample(NamedTuple):
    """One sample of a batch.

    Attributes:
        content: The task's augmented image and target; None if the image is unusable.
        source_index: The image's index in its source.
        bad: Name and reason for each unusable image.
    """

    content: Any
    source_index: int
    bad: list[tuple[str, str]]


class AddressedImages(Dataset[Sample]):
    """Samples addressed by (pass, index); a task defines how they are read and augmented.

    Args:
        length: Number of images.
        seed: With pass and index, the address of a sample's randomness.
        replace_bad: Whether to replace an unusable image by the next usable one, so that batches stay
            full; otherwise its sample is empty.
    """

    def __init__(self, length: int, *, seed: int = 0, replace_bad: bool = False) -> None:
        self.length = length
        self.seed = seed
        self.replace_bad = replace_bad

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Any:
        """Read an image and its annotations; raises BadImageError if they cannot be used."""
        raise NotImplementedError

    def augment(self, stored: Any, index: int) -> Any:
        """Augment what was read; the global random generators are seeded by the sample's address."""
        raise NotImplementedError

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        epoch, index = address
        bad = []
        for step in range(len(self) if self.replace_bad else 1):
            current = (index + step) % len(self)
            try:
                stored = self.read(current)
            except BadImageError as error:
                bad.append((error.path, error.reason))
                continue
            with addressed_randomness(self.seed, epoch, index):
                return Sample(self.augment(stored, current), current, bad)
        return Sample(None, index, bad)


class LabelledImages(AddressedImages):
    """Transformed images with their class indices.

    Args:
        source: The images.
        transform: Converts an RGB image to a tensor (C, H, W); one that has ``bands`` takes images of so many.
        seed: As for :class:`AddressedImages`.
        replace_bad: As for :class:`AddressedImages`.
    """

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int = 0, replace_bad: bool = False) -> None:
        super().__init__(len(source.targets), seed=seed, replace_bad=replace_bad)
        self.source = source
        self.transform = transform

    def read(self, index: int) -> Image.Image:
        image = self.source.load(index)
        if fault := bands_fault(image, getattr(self.transform, "bands", 3)):
            raise BadImageError(self.source.name(index), fault)
        return image

    def augment(self, stored: Image.Image, index: int) -> tuple[Tensor, int]:
        return self.transform(stored), self.source.targets[index]


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of the usable samples, which may be empty, with the names of the others."""
    contents = [sample.content for sample in samples if sample.content is not None]
    return Batch(
        torch.stack([image for image, _ in contents]) if contents else torch.empty(0),
        torch.tensor([target for _, target in contents], dtype=torch.long),
        *indices_and_bad(samples),
    )


def indices_and_bad(samples: Sequence[Sample]) -> tuple[Tensor, list[tuple[str, str]]]:
    """Indices (B) of the usable samples, and name and reason for each unusable image."""
    indices = [sample.source_index for sample in samples if sample.content is not None]
    return torch.tensor(indices, dtype=torch.long), [bad for sample in samples for bad in sample.bad]


class ResumableLoader(DataLoader[Any]):
    """A data loader that can resume in the middle of an epoch.

    Samples depend on their addresses alone, so the position is two numbers for any number of workers,
    and images before it are not read again. (torchdata's stateful loader stores the workers' states
    instead, and requires the same number of workers.)

    Args:
        dataset: The images.
        sampler: The addresses.
        settings: Further arguments of PyTorch's loader.
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
        """The position of the next batch."""
        epoch, position = self.addresses.epoch, self._position
        complete = position == len(self)
        return {"epoch": epoch + complete, "batch": 0 if complete else position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Start the next pass at a saved position."""
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
    """A loader of batches, in order or shuffled by seed and epoch.

    Args:
        dataset: The images.
        batch_size: Images per batch of a process.
        workers: Processes that read images.
        collate: Makes a batch of samples.
        **sampling: Arguments of :class:`AddressSampler`.

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


def worker_settings(workers: int) -> dict[str, Any]:
    """Arguments of PyTorch's loader for a number of workers; raises ConfigError for a number out of range."""
    if not checked("workers", workers, Workers):
        return {"num_workers": 0}
    return {
        "num_workers": workers,
        "prefetch_factor": _PREFETCHED if torch.cuda.is_available() else None,
        "multiprocessing_context": worker_context(__name__),
        "worker_init_fn": set_up_worker,
    }


@dataclass
class BadImages:
    """Unusable images, tolerated up to a share of all images.

    Attributes:
        total: Number of all images.
        share: Maximum share of unusable images.
        reasons: Name and reason for each unusable image.
    """

    total: int
    share: float
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked("max_bad", self.share, Share)

    def add(self, bad: Sequence[tuple[str, str]]) -> None:
        """Add bad images.

        Raises:
            DataError: If there are more than the share allows.
        """
        self.reasons.update(bad)
        self.check()

    def check(self) -> None:
        """Raise DataError if there are more than the share allows."""
        if len(self.reasons) > self.share * self.total:
            listed = "; ".join(f"{name} ({reason})" for name, reason in list(self.reasons.items())[:10])
            raise DataError(
                f"{len(self.reasons)} of {self.total} images cannot be used, more than --max-bad {self.share:g} "
                f"allows: {listed}. Fix or remove them, or allow more"
            )
