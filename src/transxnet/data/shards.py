"""Images in tar files of many, each read by its place in the file."""

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

from transxnet.data.images import BadImageError, decode_image
from transxnet.data.manifest import Manifest, ShardRecord, read_manifest
from transxnet.errors import DataError

_OPEN_FILES = 64
"""Descriptors a process keeps for a source: a set may have more shards than a process may open files."""


class _Descriptor:
    """An open file; it is closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Files:
    """Files opened when first read. A copy in another process opens its own."""

    def __init__(self) -> None:
        self._open = lru_cache(_OPEN_FILES)(_Descriptor)

    def __reduce__(self) -> tuple[type[_Files], tuple[()]]:
        return _Files, ()

    def read(self, path: Path, size: int, offset: int) -> bytes:
        return os.pread(self._open(path).number, size, offset)


@dataclass(frozen=True)
class ShardSource:
    """Images in tar files and the index of each one's class.

    Attributes:
        class_names: Names of the classes.
        shards: The tar files.
        entries: (n), of :func:`entry_type`; ``shard`` is a place in ``shards``.
    """

    class_names: Sequence[str]
    shards: Sequence[Path]
    entries: npt.NDArray[np.void]
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
        try:
            content = self._files.read(self.shards[entry["shard"]], size, int(entry["offset"]))
        except OSError as error:
            raise BadImageError(name, f"the shard cannot be read ({error.strerror})") from error
        if len(content) < size:
            raise BadImageError(name, "the shard is cut short before the image ends")
        return decode_image(name, content)

    def subset(self, places: npt.NDArray[np.intp]) -> ShardSource:
        return replace(self, entries=self.entries[places])

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> ShardSource:
        entries = self.entries.copy()
        entries["target"] = np.asarray(indices)[entries["target"]]
        return replace(self, class_names=tuple(class_names), entries=entries)


def entry_type(longest: int) -> np.dtype[np.void]:
    """One image: its shard, where its bytes are, its class, its place in the folder, its name in the tar file.

    Args:
        longest: Bytes of the longest name.
    """
    numbers = [("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("target", "<i4"), ("place", "<i8")]
    return np.dtype([*numbers, ("name", f"S{max(longest, 1)}")])


def open_shards(root: Path, damaged: dict[str, str] | None = None) -> dict[str, ShardSource]:
    """The parts "train" and "val" of what ``transxnet data shard`` wrote; nothing if this is not that.

    The images come in the order of the folder that was written. Where that had no validation part,
    "train" is all images, so that any seed holds out what it holds out of the folder.

    Args:
        root: The folder.
        damaged: Where to note damaged shards, which are an error by default. With it the parts are
            those of the files' names, also where they were held out.

    Raises:
        DataError: If the shards are not all there, or damaged.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return {}
    if not manifest.complete:
        raise DataError(
            f"{root} holds {len(manifest.shards)} of {manifest.planned} shards: the writing was interrupted; "
            "run the same `transxnet data shard` again"
        )
    sources = {}
    for part in ["all"] if manifest.held_out and damaged is None else ["train", "val"]:
        records = [record for record in manifest.shards if part in ("all", record.part)]
        if not records:
            continue
        entries = join([_entries(root, manifest, record, damaged) for record in records])
        if not len(entries) and damaged is None:
            raise DataError(f"{root} holds no images for {part}")
        entries = entries[np.argsort(entries["place"])]
        name = "train" if part == "all" else part
        sources[name] = ShardSource(tuple(manifest.classes), tuple(root / record.file for record in records), entries)
    return sources


def join(shards: Sequence[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """The entries of several shards, each marked with its shard's place."""
    longest = max((shard.dtype["name"].itemsize for shard in shards), default=1)
    joined = np.concatenate([shard.astype(entry_type(longest)) for shard in shards] or [np.empty(0, entry_type(1))])
    joined["shard"] = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    return joined


def _entries(
    root: Path, manifest: Manifest, record: ShardRecord, damaged: dict[str, str] | None
) -> npt.NDArray[np.void]:
    fault = record.fault(root)
    try:
        entries: npt.NDArray[np.void] = np.load(root / record.index)
        longest = entries.dtype["name"].itemsize if entries.dtype.names else 0
        sound = entries.dtype == entry_type(longest) and len(entries) == record.images
        if not sound or not (entries["target"] < len(manifest.classes)).all():
            fault = fault or f"{record.index} is not the index of this shard"
            entries = np.empty(0, entry_type(1))
    except (OSError, ValueError, EOFError) as error:
        fault = fault or f"{record.index} is damaged ({error})"
        entries = np.empty(0, entry_type(1))
    if fault and damaged is None:
        raise DataError(f"{root}: {fault}; write the shards again (the sound ones are kept)")
    if fault and damaged is not None:
        damaged[str(root / record.file)] = fault
    return entries
