"""Whether every image of a data set can be used."""

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

from transxnet.data.images import BadImageError
from transxnet.data.loader import worker_settings
from transxnet.data.manifest import ShardRecord, read_manifest
from transxnet.data.sources import ImageSource, open_parts
from transxnet.files import open_regular, reason, user_path

_LISTED = 5_000
"""Classes of which those without images are listed too."""

_AT_ONCE = 16
"""Images that a process decodes before it reports."""


@dataclass(frozen=True)
class ClassCount:
    """Images of a class.

    Attributes:
        images: All of them.
        broken: Those that cannot be used.
    """

    images: int
    broken: int


@dataclass(frozen=True)
class Findings:
    """What is in a data set, and what is wrong with it.

    Attributes:
        parts: For each part, the images of each class; of very many classes, of those that have images.
        broken: Name of and reason for each image and each shard that cannot be used.
    """

    parts: Mapping[str, Mapping[str, ClassCount]]
    broken: Mapping[str, str]


class DataCheck:
    """A data set that is to be checked.

    Args:
        data: A folder of images, of tar shards or of Parquet files.

    Raises:
        DataError: If it is none of these.
    """

    def __init__(self, data: str) -> None:
        self.damaged: dict[str, str] = {}
        self.parts = open_parts(data, self.damaged)
        self.folder = user_path(data)
        manifest = read_manifest(self.folder)
        self.records = tuple(manifest.shards) if manifest else ()

    @property
    def steps(self) -> int:
        """Images to decode and shards to compare."""
        return len(self.records) + sum(len(source.targets) for source in self.parts.values())

    def run(self, workers: int = 0, advance: Callable[[int], None] = lambda count: None) -> Findings:
        """Decode every image, and compare every shard with its digest.

        Args:
            workers: Processes that do so; with 0 this one does.
            advance: Called with the number of steps done, as they are.
        """
        tasks = [Faults(partial(_shard_fault, self.folder, self.records), len(self.records))]
        tasks += [Faults(partial(_image_fault, source), len(source.targets)) for source in self.parts.values()]
        faults = iter(in_order(tasks, workers, advance))
        broken = {str(self.folder / record.file): fault for record in self.records if (fault := next(faults))}
        broken.update(self.damaged)
        parts = {}
        for part, source in self.parts.items():
            found = {place: fault for place in range(len(source.targets)) if (fault := next(faults))}
            broken.update({source.name(place): fault for place, fault in found.items()})
            bad = Counter(source.targets[place] for place in found)
            images = Counter(source.targets)
            few = len(source.class_names) <= _LISTED
            parts[part] = {
                name: ClassCount(images[i], bad[i]) for i, name in enumerate(source.class_names) if few or images[i]
            }
        return Findings(parts, broken)


class Faults(Dataset[str | None]):
    """What is wrong with each of so many things; None where nothing is."""

    def __init__(self, find: Callable[[int], str | None], length: int) -> None:
        self.find = find
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> str | None:
        return self.find(index)


def in_order(tasks: Sequence[Faults], workers: int, advance: Callable[[int], None]) -> list[str | None]:
    """The faults of all tasks, found by several processes, or by this one with 0 workers."""
    loader: DataLoader[Any] = DataLoader(
        ConcatDataset(tasks),
        _AT_ONCE,
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
            return f"the bytes of {name} are not those that were written (SHA-256 differs from the manifest's)"
    return None
