"""Tar files in the style of WebDataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from transxnet.data.findings import Findings
from transxnet.data.images.reading import EXTENSIONS, is_image_name
from transxnet.data.names import MAX_CLASSES, is_system_folder, name_key, natural_key
from transxnet.data.packed.shard_index import Entries, entry_type
from transxnet.data.packed.shards import ShardSource, join
from transxnet.data.packed.tar_members import members
from transxnet.data.splits import part_files
from transxnet.errors import DataError
from transxnet.files import open_regular, reason

_MAX_CLS_BYTES = 100  # bytes read of a member with a class index


class _Member(NamedTuple):
    """An image in a tar file: name, and offset and size of its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Listing:
    """Contents of a tar file.

    Attributes:
        path: The file.
        images: The images.
        numbers: The class index of each sample with a ``.cls`` member.
        hidden: Number of hidden files, such as those that macOS adds for every file.
        intact: Whether the file is undamaged; otherwise the contents end at the damage.
    """

    path: Path
    images: list[_Member] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    intact: bool = True


@dataclass
class _Classes:
    """Labels of the images of all files.

    Attributes:
        numbered: Whether labels are ``.cls`` members, which all images then need; otherwise folders.
        folders: A number for each folder of images.
        spellings: The first spelling of each folder: archives store "é" as one character or as two.
        numbers: The class indices of the images in each folder.
    """

    numbered: bool
    folders: dict[str, int] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, set[int]] = field(default_factory=dict)


def open_webdataset(
    root: Path, damaged: dict[str, str] | None = None, findings: Findings | None = None
) -> dict[str, ShardSource]:
    """Open the parts "train" and "val" of a folder of tar files; empty for other folders.

    An image's class is in the member ``.cls`` beside it, or else its folder. Images are in the order of
    the files. All headers are read, which takes a while for many images.

    Args:
        root: The folder.
        damaged: Receives damaged files and the reasons; by default these raise an error.
        findings: Receives remarks.

    Raises:
        DataError: If a file is damaged, or an image has no class.
    """
    findings = Findings() if findings is None else findings
    files = part_files(root, ".tar", findings)
    if not files:
        return {}
    listings = {part: [_listed(path, damaged) for path in paths] for part, paths in files.items()}
    everything = [listing for part in listings.values() for listing in part]
    if not damaged and not any(listing.images for listing in everything):
        raise DataError(f"the tar files of {root} have no images ({', '.join(sorted(EXTENSIONS))})")
    classes = _Classes(any(listing.numbers for listing in everything))
    parts = {part: join([_rows(each, classes) for each in listed]) for part, listed in listings.items()}
    names, indices = _named(classes)
    if hidden := sum(listing.hidden for listing in everything):
        findings.remark(f"ignored {hidden:,} hidden files in the tar files")
    sources = {}
    for part, entries in parts.items():
        entries["place"] = np.arange(len(entries))
        sources[part] = ShardSource(names, tuple(files[part]), entries).relabelled(names, indices)
    return sources


def _listed(path: Path, damaged: dict[str, str] | None) -> _Listing:
    images: list[_Member] = []
    numbers: dict[str, int] = {}
    hidden = 0
    try:
        with open_regular(path) as file:
            for member in members(file):
                key, _, ending = _split(member.name)
                if any(map(is_system_folder, PurePosixPath(member.name).parts)):
                    hidden += 1
                elif ending.lower() == "cls":
                    content = os.pread(file.fileno(), min(member.size, _MAX_CLS_BYTES), member.offset_data)
                    numbers[key] = _number(path, member.name, content)
                elif is_image_name(member.name):
                    images.append(_Member(member.name, member.offset_data, member.size))
    except DataError:
        raise
    except Exception as error:  # the library can raise anything for damaged headers
        if damaged is None:
            raise DataError(f"{path} is damaged ({reason(error)}); download it again") from error
        damaged[str(path)] = f"damaged ({reason(error)})"
        return _Listing(path, images, numbers, hidden, intact=False)
    return _Listing(path, images, numbers, hidden)


def _rows(listing: _Listing, classes: _Classes) -> Entries:
    images: Sequence[_Member] = listing.images
    if classes.numbered:  # "1.depth.png" beside "1.jpg" and "1.cls" is not a separate image
        images = [image for image in images if f".{_split(image.name)[2].lower()}" in EXTENSIONS]
    targets = [_target(image.name, listing, classes) for image in images]
    kept = [(image, target) for image, target in zip(images, targets, strict=True) if target is not None]
    rows = np.zeros(len(kept), entry_type(max((len(os.fsencode(image.name)) for image, _ in kept), default=1)))
    for row, (image, target) in zip(rows, kept, strict=True):
        row["offset"], row["size"], row["target"] = image.offset, image.size, target
        row["name"] = os.fsencode(image.name)
    return rows


def _target(name: str, listing: _Listing, classes: _Classes) -> int | None:
    """The number of an image's class; None if it is lost in a damaged file."""
    key, folder, _ = _split(name)
    folder = classes.spellings.setdefault(name_key(folder), folder)
    if classes.numbered:
        target = listing.numbers.get(key)
        if target is not None:
            classes.numbers.setdefault(folder, set()).add(target)
        elif listing.intact:
            raise DataError(f"{listing.path}: {name} has no .cls beside it")
        return target
    if folder:
        return classes.folders.setdefault(folder, len(classes.folders))
    if listing.intact:
        raise DataError(f"{listing.path}: {name} has no class: it has no .cls beside it and is in no folder")
    return None


def _split(name: str) -> tuple[str, str, str]:
    """Split "a/cat/1.seg.png" into the sample's key "a/cat/1", the folder "cat" and the suffix "seg.png"."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), path.parent.name, ending


def _number(path: Path, name: str, content: bytes) -> int:
    try:
        number = int(content)
    except ValueError as error:
        raise DataError(f"{path}: {name} contains {content[:20]!r}, not a class index") from error
    if not 0 <= number < MAX_CLASSES:
        raise DataError(f"{path}: {name} contains {number}, not a class index (0 to {MAX_CLASSES - 1:,})")
    return number


def _named(classes: _Classes) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the class index of each target in the entries."""
    if not classes.numbered:
        names = sorted(classes.folders, key=natural_key)
        position = {name: index for index, name in enumerate(names)}
        return tuple(names), [position[name] for name in classes.folders]
    count = max((max(numbers) for numbers in classes.numbers.values()), default=-1) + 1
    owners = {min(numbers): name for name, numbers in classes.numbers.items() if len(numbers) == 1 and name}
    named = len(owners) == len(classes.numbers) == count
    return tuple(owners[index] if named else str(index) for index in range(count)), list(range(count))
