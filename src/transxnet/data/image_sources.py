"""Labelled images that are read one by one, and the parts of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from transxnet.data.description import DataDescription, PartDescription
from transxnet.data.findings import Findings
from transxnet.data.images.reading import BadImageError, read_image
from transxnet.data.splits import held_out
from transxnet.errors import DataError


class ImageSource(Protocol):
    """Labelled images that are read one by one."""

    @property
    def class_names(self) -> Sequence[str]:
        """Class names, in the order of the class indices."""

    @property
    def targets(self) -> Sequence[int]:
        """The class index of each image."""

    def name(self, index: int) -> str:
        """Name of an image, for messages."""

    def load(self, index: int) -> Image.Image:
        """Read an image as RGB; raises BadImageError if it cannot be used."""


def loaded(source: ImageSource) -> Iterator[tuple[str, Image.Image | None, str]]:
    """Each image's name and pixels; None and the reason in their place for an unreadable one."""
    for index in range(len(source.targets)):
        try:
            yield source.name(index), source.load(index), ""
        except BadImageError as error:
            yield source.name(index), None, error.reason


class StoredSource(ImageSource, Protocol):
    """Images in files, which can be divided."""

    def __len__(self) -> int:
        """Number of images."""

    def subset(self, indices: npt.NDArray[np.intp]) -> Self:
        """The images at the given indices."""


@runtime_checkable
class PackedSource(StoredSource, Protocol):
    """Images in packed files of many images each."""

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> Self:
        """The same images, with each target replaced by ``indices[target]``."""


@dataclass(frozen=True)
class FolderSource:
    """Image files, with class indices."""

    class_names: Sequence[str]
    paths: Sequence[Path]
    targets: Sequence[int]

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def load(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: npt.NDArray[np.intp]) -> FolderSource:
        return replace(self, paths=[self.paths[i] for i in indices], targets=[self.targets[i] for i in indices])


@dataclass(frozen=True)
class DigitsSource:
    """Handwritten digits of 8 x 8 pixels, resized to 32 x 32.

    Attributes:
        pictures: (n, 8, 8), grey values from 0 to 255.
    """

    pictures: npt.NDArray[np.uint8]
    targets: Sequence[int]
    class_names: Sequence[str] = tuple(str(digit) for digit in range(10))

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"digit {index}"

    def load(self, index: int) -> Image.Image:
        picture = Image.fromarray(self.pictures[index])
        return picture.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")


@dataclass(frozen=True)
class OpenedParts:
    """The parts of a data set.

    Attributes:
        root: The data set.
        layout: Name of the layout.
        sources: The images of "train" and "val", or of one of them.
        origins: Where the images of each part are.
        findings: Problems and remarks.
        only_class: The folder of the only class if it has folders in it, which may be the data set meant.
    """

    root: str
    layout: str
    sources: Mapping[str, StoredSource]
    origins: Mapping[str, str]
    findings: Findings
    only_class: Path | None = None

    def divided(self, seed: int) -> LabelledData:
        """Training and validation images; without a validation part, a fifth of each class is held out.

        Args:
            seed: Chooses the held-out images.

        Raises:
            DataError: If there are no training images, fewer than two classes, or nothing can be held out.
        """
        if "train" not in self.sources:
            raise DataError(f"{self.root} has validation images but no training images")
        train = self.sources["train"]
        if len(train.class_names) < 2:
            only = f"one class, {train.class_names[0]!r}" if train.class_names else "no classes"
            meant = f" (give {self.only_class}, if its folders are the classes)" if self.only_class else ""
            raise DataError(f"{self.root} has {only}; training needs at least two class folders{meant}")
        if "val" in self.sources:
            return LabelledData(train, self.sources["val"], self)
        held = held_out(train.targets, seed)
        if not held.any():
            raise DataError("every class has a single image: nothing can be held out; add a val folder")
        learned, validation = (train.subset(np.flatnonzero(part)) for part in (~held, held))
        return LabelledData(learned, validation, self, train, seed)

    def description(self) -> DataDescription:
        """Description of the data set before anything is held out."""
        names = {"train": "training", "val": "validation"}
        parts = [
            described_part(names[part], self.origins[part], source) for part, source in sorted(self.sources.items())
        ]
        return DataDescription(self.layout, tuple(parts), self.findings)


@dataclass(frozen=True)
class LabelledData:
    """Training and validation images.

    Attributes:
        train: Training images.
        validation: Validation images.
        parts: The parts of the data set.
        everything: The images that both were drawn from; None if the data set has a validation part.
        seed: The seed that chose the held-out images.
    """

    train: ImageSource
    validation: ImageSource
    parts: OpenedParts
    everything: StoredSource | None = None
    seed: int = 0

    def description(self) -> DataDescription:
        """Description of the data set."""
        if self.everything is None:
            described = self.parts.origins["train"], self.parts.origins["val"]
        else:
            origin = self.parts.origins["train"]
            described = origin, f"a fifth of each class of {origin}, held out by seed {self.seed}"
        train, validation = described
        parts = described_part("training", train, self.train), described_part("validation", validation, self.validation)
        return DataDescription(self.parts.layout, parts, self.parts.findings)


def described_part(name: str, origin: str, source: ImageSource) -> PartDescription:
    """Describe the images of a part.

    Args:
        name: Name of the part.
        origin: Where its images are.
        source: The images.
    """
    counted = np.bincount(np.asarray(source.targets, np.int64), minlength=len(source.class_names)).tolist()
    counts = dict(zip(source.class_names, counted, strict=True))
    return PartDescription(name, origin, len(source.targets), "images", counts)
