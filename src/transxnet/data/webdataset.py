"""Tar shards in the style of WebDataset that others wrote."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from timm.utils.misc import natural_key

from transxnet.data.images import EXTENSIONS, is_image_name
from transxnet.data.parts import part_files
from transxnet.data.shards import ShardSource, entry_type, join
from transxnet.errors import DataError

_MOST_CLASSES = 1_000_000


@dataclass
class _Scan:
    """What the headers of some tar files tell.

    Attributes:
        folders: A number for each folder that images lie in.
        classes: Whether there are ``.cls`` members, by which all images must then be labelled.
        numbers: The class indices that the images of a folder have.
    """

    folders: dict[str, int] = field(default_factory=dict)
    classes: bool = False
    numbers: dict[str, set[int]] = field(default_factory=dict)


def open_webdataset(root: Path, damaged: dict[str, str] | None = None) -> dict[str, ShardSource]:
    """The parts "train" and "val" of a folder of tar files; nothing if this is not one.

    The class is what the member ``.cls`` beside an image says, or else the folder the image lies in.
    The images come in the order of the files. All headers are read, which takes a while where there
    are many.

    Args:
        root: The folder.
        damaged: Where to note damaged files; by default they are an error.

    Raises:
        DataError: If a file is damaged, or an image has no class.
    """
    files = part_files(root, ".tar")
    if not files:
        return {}
    scan = _Scan()
    parts = {part: (paths, join([_entries(path, scan, damaged) for path in paths])) for part, paths in files.items()}
    if not damaged and not any(len(entries) for _, entries in parts.values()):
        raise DataError(f"the tar files of {root} hold no images ({', '.join(sorted(EXTENSIONS))})")
    names, indices = _named(root, scan)
    sources = {}
    for part, (paths, entries) in parts.items():
        if scan.classes and (entries["target"] < 0).any():
            first = entries[entries["target"] < 0][0]
            raise DataError(f"{paths[first['shard']]}: {os.fsdecode(bytes(first['name']))} has no .cls beside it")
        entries["place"] = np.arange(len(entries))
        sources[part] = ShardSource(names, tuple(paths), entries).relabelled(names, indices)
    return sources


def _entries(path: Path, scan: _Scan, damaged: dict[str, str] | None) -> npt.NDArray[np.void]:
    found: list[tuple[str, int, int]] = []
    numbers: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                key, _, ending = _split(member.name)
                if member.isreg() and ending.lower() == "cls":
                    content = shard.extractfile(member)
                    numbers[key] = _number(path, member.name, content.read() if content else b"")
                elif member.isreg() and is_image_name(member.name):
                    found.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, OSError, EOFError) as error:
        if damaged is None:
            raise DataError(f"{path} is damaged ({error}); fetch it again") from error
        damaged[str(path)] = f"damaged ({error})"
    return _rows(path, found, numbers, scan)


def _rows(
    path: Path, found: list[tuple[str, int, int]], numbers: Mapping[str, int], scan: _Scan
) -> npt.NDArray[np.void]:
    if numbers:  # then "1.depth.png" is no image of its own, beside "1.jpg" and "1.cls"
        found = [image for image in found if f".{_split(image[0])[2].lower()}" in EXTENSIONS]
        scan.classes = True
    names = [os.fsencode(name) for name, _, _ in found]
    rows = np.zeros(len(found), entry_type(max(map(len, names), default=1)))
    for row, (name, offset, size), encoded in zip(rows, found, names, strict=True):
        key, folder, _ = _split(name)
        if not folder and not numbers:
            raise DataError(f"{path}: {name} has no class: there is neither a .cls beside it nor a folder around it")
        target = numbers.get(key, -1) if numbers else scan.folders.setdefault(folder, len(scan.folders))
        scan.numbers.setdefault(folder, set()).add(target)
        row["offset"], row["size"], row["target"], row["name"] = offset, size, target, encoded
    return rows


def _split(name: str) -> tuple[str, str, str]:
    """Of "a/cat/1.seg.png": the sample's key "a/cat/1", the folder "cat", and the ending "seg.png"."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), path.parent.name, ending


def _number(path: Path, name: str, content: bytes) -> int:
    try:
        number = int(content)
    except ValueError as error:
        raise DataError(f"{path}: {name} holds {content[:20]!r}, not a class index") from error
    if not 0 <= number < _MOST_CLASSES:
        raise DataError(f"{path}: {name} holds {number}, not a class index")
    return number


def _named(root: Path, scan: _Scan) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes, and the index of each number that the entries have as target."""
    if not scan.classes:
        names = sorted(scan.folders, key=natural_key)
        position = {name: index for index, name in enumerate(names)}
        return tuple(names), [position[name] for name in scan.folders]
    if scan.folders:
        raise DataError(f"{root} mixes tar files that have .cls members with tar files that have none")
    count = max(max(numbers) for numbers in scan.numbers.values()) + 1
    owners = {min(numbers): name for name, numbers in scan.numbers.items() if len(numbers) == 1 and name}
    named = len(owners) == len(scan.numbers) == count
    return tuple(owners[index] if named else str(index) for index in range(count)), list(range(count))
