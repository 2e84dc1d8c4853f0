"""Images in tar shards, read by their offsets."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from transxnet.data.images.reading import MAX_BYTES, BadImageError, decode_image
from transxnet.data.names import entries_of
from transxnet.data.packed.manifest import MANIFEST, Manifest, ShardRecord, read_manifest
from transxnet.data.packed.shard_index import Entries, entry_type, read_index
from transxnet.errors import DataError
from transxnet.files import open_regular, reason

_OPEN_FILES = 64
"""Open files per source and process: a data set may have more shards than a process may open files."""


class _Descriptor:
    """An open file, closed when it is no longer used."""

    def __init__(self, path: Path) -> None:
        self.file = open_regular(path)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class _Files:
    """Files that are opened at the first read; a copy in another process opens its own."""

    def __init__(self) -> None:
        self._open = lru_cache(_OPEN_FILES)(_Descriptor)

    def __reduce__(self) -> tuple[type[_Files], tuple[()]]:
        return _Files, ()

    def read(self, path: Path, size: int, offset: int) -> bytes:
        return os.pread(self._open(path).file.fileno(), size, offset)


@dataclass(frozen=True)
class ShardSource:
    """Images in tar files, with class indices.

    Attributes:
        class_names: Names of the classes.
        shards: The tar files.
        entries: (n), of :func:`~transxnet.data.packed.shard_index.entry_type`; ``shard`` is an index into ``shards``.
    """

    class_names: Sequence[str]
    shards: Sequence[Path]
    entries: Entries
    targets: Sequence[int] = field(init=False, repr=False)
    _files: _Files = field(default_factory=_Files, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A list would hold a Python object for each of a million images.
        object.__setattr__(self, "targets", array("i", self.entries["target"].astype(np.intc).tobytes()))

    def name(self, index: int) -> str:
        entry = self.entries[index]
        return f"{self.shards[entry['shard']]}:{os.fsdecode(bytes(entry['name']))}"

    def load(self, index: int) -> Image.Image:
        entry = self.entries[index]
        name, size = self.name(index), int(entry["size"])
        if size > MAX_BYTES:
            raise BadImageError(name, f"more than {MAX_BYTES:,} bytes")
        try:
            content = self._files.read(self.shards[entry["shard"]], size, int(entry["offset"]))
        except OSError as error:
            raise BadImageError(name, f"the shard cannot be read ({reason(error)})") from error
        if len(content) < size:
            raise BadImageError(name, "the shard ends before the image")
        return decode_image(name, content)

    def __len__(self) -> int:
        return len(self.entries)

    def subset(self, indices: npt.NDArray[np.intp]) -> ShardSource:
        return replace(self, entries=self.entries[indices])

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> ShardSource:
        entries = self.entries.copy()
        entries["target"] = np.asarray(indices)[entries["target"]]
        return replace(self, class_names=tuple(class_names), entries=entries)


def open_shards(root: Path, damaged: dict[str, str] | None = None) -> dict[str, ShardSource]:
    """Open the parts "train" and "val" of a folder written by ``transxnet data shard``.

    Returns an empty dictionary for other folders. Images are in the order of the original folder. If
    that had no validation part, "train" is all images, so that a seed holds out the same images.

    Args:
        root: The folder.
        damaged: Receives damaged shards and the reasons, which by default raise an error. With it the
            parts are those of the file names, even if they were held out.

    Raises:
        DataError: If shards are missing or damaged.
    """
    manifest = read_manifest(root)
    if manifest is None:
        if os.path.lexists(root / MANIFEST) and any(path.name.endswith(".index.npy") for path in entries_of(root)):
            raise DataError(f"{root / MANIFEST} does not belong to the shards beside it; write them again")
        return {}
    if not manifest.complete:
        raise DataError(
            f"{root} has {len(manifest.shards)} of {manifest.planned} shards: writing was interrupted; run the same "
            "`transxnet data shard` again"
        )
    sources = {}
    for part in ["all"] if manifest.held_out and damaged is None else ["train", "val"]:
        records = [record for record in manifest.shards if part in ("all", record.part)]
        if not records:
            continue
        entries = _indices(root, manifest, records, damaged)
        if not len(entries) and damaged is None:
            raise DataError(f"{root} has no images for {part}")
        name = "train" if part == "all" else part
        sources[name] = ShardSource(tuple(manifest.classes), tuple(root / record.file for record in records), entries)
    return sources


def join(shards: Sequence[Entries]) -> Entries:
    """Join the entries of several shards, each with the index of its shard."""
    longest = max((shard.dtype["name"].itemsize for shard in shards), default=1)
    joined = np.concatenate([shard.astype(entry_type(longest)) for shard in shards] or [np.empty(0, entry_type(1))])
    joined["shard"] = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    return joined


def _indices(root: Path, manifest: Manifest, records: Sequence[ShardRecord], damaged: dict[str, str] | None) -> Entries:
    """The entries of some shards, in the order of the original folder."""
    counted = manifest.shards if manifest.held_out else records  # held-out images share the numbering
    images = sum(record.images + len(record.skipped) for record in counted)
    found = []
    for record in records:
        entries, fault = read_index(root, record, len(manifest.classes), images)
        found.append(entries)
        _note(root, record, record.fault(root) or fault, damaged)
    entries = join(found)
    entries = entries[np.argsort(entries["place"], kind="stable")]
    twice = np.flatnonzero(np.diff(entries["place"]) == 0)
    pairs = np.stack([entries["shard"][twice], entries["shard"][twice + 1]], axis=1)
    for pair in np.unique(pairs, axis=0).tolist():
        one, other = (records[shard] for shard in pair)
        fault = f"{one.index} and {other.index} give two images the same index in the original folder"
        _note(root, one, fault, damaged)
        _note(root, other, fault, damaged)
    return entries


def _note(root: Path, record: ShardRecord, fault: str | None, damaged: dict[str, str] | None) -> None:
    if fault is None:
        return
    if damaged is None:
        raise DataError(f"{root}: {fault}; write the shards again (intact ones are kept)")
    damaged.setdefault(str(root / record.file), fault)
