"""Checking every image of a classification data set."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch.utils.data import ConcatDataset, DataLoader, Dataset

from transxnet.data.description import DataDescription
from transxnet.data.images.reading import BadImageError
from transxnet.data.loader import worker_settings
from transxnet.data.packed.manifest import ShardRecord, read_manifest
from transxnet.data.sources import ImageSource, OpenedParts, open_parts
from transxnet.errors import DataError
from transxnet.files import open_regular, reason, user_path

_MAX_LISTED = 5_000
"""Maximum number of classes for which empty classes are listed too."""

_BATCH = 16
"""Images that a worker decodes before it reports."""


@dataclass(frozen=True)
class ClassCount:
    """Number of images of a class.

    Attributes:
        images: All images.
        broken: Images that cannot be used.
    """

    images: int
    broken: int


@dataclass(frozen=True)
class DataReport:
    """Contents and problems of a data set.

    Attributes:
        parts: For each part, the images of each class; with very many classes, without empty ones.
        broken: Name and reason for each image and shard that cannot be used.
        description: The data set as training describes it.
    """

    parts: Mapping[str, Mapping[str, ClassCount]]
    broken: Mapping[str, str]
    description: DataDescription

    @property
    def sound(self) -> bool:
        """Whether nothing is broken or left out."""
        return not self.broken and not self.description.findings.counts


class DataCheck:
    """A check of a data set.

    Args:
        data: A folder of images, of tar shards or of Parquet files.

    Raises:
        DataError: If it is not a data set.
    """

    def __init__(self, data: str) -> None:
        self.damaged: dict[str, str] = {}
        opened = open_parts(data, self.damaged)
        self.parts = opened.sources
        self.folder = user_path(data)
        manifest = read_manifest(self.folder)
        self.records = tuple(manifest.shards) if manifest else ()
        self.description = _description(opened, divided=manifest is not None and manifest.held_out)

    @property
    def steps(self) -> int:
        """Number of images to decode and shards to compare."""
        return len(self.records) + sum(len(source.targets) for source in self.parts.values())

    def run(self, workers: int = 0, advance: Callable[[int], None] = lambda count: None) -> DataReport:
        """Decode every image, and compare every shard with its digest.

        Args:
            workers: Worker processes; 0 for this one.
            advance: Called with the number of steps just done.
        """
        tasks = [Faults(partial(_shard_fault, self.folder, self.records), len(self.records))]
        tasks += [Faults(partial(_image_fault, source), len(source.targets)) for source in self.parts.values()]
        faults = iter(in_order(tasks, workers, advance))
        broken = {str(self.folder / record.file): fault for record in self.records if (fault := next(faults))}
        broken.update(self.damaged)
        parts = {}
        for part, source in self.parts.items():
            found = {index: fault for index in range(len(source.targets)) if (fault := next(faults))}
            broken.update({source.name(index): fault for index, fault in found.items()})
            bad = Counter(source.targets[index] for index in found)
            images = Counter(source.targets)
            all_classes = len(source.class_names) <= _MAX_LISTED
            parts[part] = {
                name: ClassCount(images[i], bad[i])
                for i, name in enumerate(source.class_names)
                if all_classes or images[i]
            }
        return DataReport(parts, broken, self.description)


def _description(opened: OpenedParts, *, divided: bool) -> DataDescription:
    """The description that training prints; without the held-out images where training would refuse the data."""
    if divided:
        opened.findings.remark("the shards' validation images are held out; training holds out a fifth by its own seed")
    try:
        return opened.divided(seed=0).description()
    except DataError as error:
        opened.findings.remark(f"training is not possible: {error}")
        return opened.description()


class Faults(Dataset[str | None]):
    """The fault of each item, or None, as a data set for parallel checking."""

    def __init__(self, find: Callable[[int], str | None], length: int) -> None:
        self.find = find
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> str | None:
        return self.find(index)


def in_order(tasks: Sequence[Faults], workers: int, advance: Callable[[int], None]) -> list[str | None]:
    """The faults of all tasks in order, found by worker processes, or by this one with 0 workers."""
    loader: DataLoader[Any] = DataLoader(
        ConcatDataset(tasks),
        _BATCH,
        collate_fn=list,
        **worker_settings(workers),
    )
    faults = []
    for found in loader:
        faults += found
        advance(len(found))
    return faults


def _image_fault(source: ImageSource, index: int) -> str | None:
    try:
        source.load(index)
    except BadImageError as error:
        return error.reason
    return None


def _shard_fault(folder: Path, records: Sequence[ShardRecord], index: int) -> str | None:
    record = records[index]
    fault = record.fault(folder)
    if fault:
        return fault
    for name, expected in ((record.file, record.sha256), (record.index, record.index_sha256)):
        try:
            with open_regular(folder / name) as file:
                digest = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
        except OSError as error:
            return f"{name} cannot be read ({reason(error)})"
        if digest != expected:
            return f"{name} was changed after writing (SHA-256 differs from the manifest)"
    return None
