"""Writing a folder of images as tar shards, in pieces that survive an interruption."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from transxnet.bounds import Seed, ShardBytes, checked
from transxnet.data.images import MAX_BYTES
from transxnet.data.manifest import Manifest, ShardRecord, read_manifest
from transxnet.data.randomness import seed_for
from transxnet.data.shard_index import entry_type
from transxnet.data.sources import FolderSource, held_out, open_parts
from transxnet.errors import DataError
from transxnet.files import read_bytes, reason, remove_leftovers, replacing

_BLOCK = tarfile.BLOCKSIZE
_LEFTOVERS = ".transxnet-*.tmp*"  # what a killed process of ours was writing
_DROPPINGS = {".DS_Store", ".directory", ".localized", "Thumbs.db", "desktop.ini"}  # of file managers


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image to be written.

    Attributes:
        path: The file.
        size: Its bytes; 0 if it cannot be looked at.
        target: Its class index.
        place: Its place in the folder's part.
        stem: Its name in the tar file, without the ending.
    """

    path: Path
    size: int
    target: int
    place: int
    stem: str


@dataclass(frozen=True)
class Plan:
    """What is to be written, decided before anything is.

    Attributes:
        manifest: That of the folder, with no shard yet.
        shards: File name and images of each shard.
    """

    manifest: Manifest
    shards: Sequence[tuple[str, Sequence[_Picture]]]

    @property
    def images(self) -> int:
        return sum(len(pictures) for _, pictures in self.shards)


def plan_shards(folder: str, shard_bytes: int, seed: int = 0) -> Plan:
    """Which image goes into which shard: shuffled by the seed, filled up to a size.

    Args:
        folder: A folder of images, as :func:`transxnet.data.sources.open_data` takes it.
        shard_bytes: Size that no shard of several images exceeds.
        seed: Decides the order, and what is held out where there is no validation part.

    Raises:
        DataError: If it is not a folder of images.
        ConfigError: If a number is out of range.
    """
    checked("shard_bytes", shard_bytes, ShardBytes)
    checked("seed", seed, Seed)
    sources = {part: source for part, source in open_parts(folder).items() if isinstance(source, FolderSource)}
    if not sources:
        raise DataError(f"{folder} is packed already; give a folder of image files")
    parts = {part: _pictures(source) for part, source in sources.items()}
    divide = list(parts) == ["train"]
    if divide:
        held = _held_out(sources["train"], seed)
        everything = parts["train"]
        for name, judged in (("train", False), ("val", True)):
            parts[name] = [picture for picture in everything if held[picture.place] == judged]
    shards = []
    for number, name in enumerate(("train", "val")):
        part = parts.get(name, [])
        order = np.random.default_rng(seed_for(seed, number)).permutation(len(part))
        filled = _filled([part[place] for place in order], shard_bytes)
        shards += [(f"{name}-{index:06}.tar", contents) for index, contents in enumerate(filled)]
    listing = hashlib.sha256()
    for name, contents in shards:
        for picture in contents:
            described = name, picture.stem, picture.path.suffix, picture.size, picture.target, picture.place
            listing.update(repr(described).encode())
    class_names = next(iter(sources.values())).class_names
    manifest = Manifest(list(class_names), listing.hexdigest(), seed, shard_bytes, divide, planned=len(shards))
    return Plan(manifest, shards)


def write_shards(plan: Plan, out: Path, advance: Callable[[int], None] = lambda count: None) -> tuple[Manifest, int]:
    """Write the shards that are not there yet; returns the manifest, and how many were there.

    Args:
        plan: What to write.
        out: A folder that is new, empty, or holds a part of the same shards.
        advance: Called with the number of images done, as they are.

    Raises:
        DataError: If the folder holds something else, is being written to, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            complete = _complete(plan, out)
            kept, records = len(complete), list[ShardRecord]()
            if not kept:
                plan.manifest.write(out)  # claims the folder before the first shard is there
            for name, pictures in plan.shards:
                record = complete.get(name)
                if record is None:
                    record = _write(out, name, pictures, advance)
                else:
                    advance(len(pictures))
                records.append(record)
                if complete.pop(name, None) is None:
                    replace(plan.manifest, shards=(*records, *complete.values())).write(out)
            return replace(plan.manifest, shards=tuple(records)), kept
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}); the same command goes on from here"
        ) from error


def _held_out(source: FolderSource, seed: int) -> npt.NDArray[np.bool_]:
    try:
        return held_out(source, seed)
    except DataError:  # of single images all can be evaluated, though not trained on
        return np.zeros(len(source.targets), dtype=bool)


def _pictures(source: FolderSource) -> list[_Picture]:
    taken: set[tuple[int, str]] = set()
    pictures = []
    for place, (path, target) in enumerate(zip(source.paths, source.targets, strict=True)):
        stem = wanted = _stem(path, source.class_names[target])
        count = 1
        while (target, stem) in taken:  # 1.jpg beside 1.png: readers would see one sample of two images
            count += 1
            stem = f"{wanted}_{count}"
        taken.add((target, stem))
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        pictures.append(_Picture(path, size, target, place, f"{source.class_names[target]}/{stem}"))
    return pictures


def _stem(path: Path, class_name: str) -> str:
    folders = path.parts[:-1]
    below = folders[len(folders) - folders[::-1].index(class_name) :]
    return "_".join((*below, path.stem)).replace(".", "_")  # readers end a sample's name at the first dot


def _filled(pictures: Sequence[_Picture], most: int) -> Iterator[list[_Picture]]:
    shard: list[_Picture] = []
    total = 0
    for picture in pictures:
        headers = _header_bytes(f"{picture.stem}{picture.path.suffix}") + _header_bytes(f"{picture.stem}.cls")
        size = headers + _padded(picture.size) + _BLOCK
        if shard and _ended(total + size) > most:
            yield shard
            shard, total = [], 0
        shard.append(picture)
        total += size
    if shard:
        yield shard


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"another process is writing to {out}") from error
    finally:
        os.close(descriptor)


def _complete(plan: Plan, out: Path) -> dict[str, ShardRecord]:
    """The shards that need not be written again; what an interrupted run left over is removed."""
    manifest = read_manifest(out)
    if manifest is None:
        ours = {path.name for path in out.glob(_LEFTOVERS)}
        if any(path.name not in ours | _DROPPINGS for path in out.iterdir()):
            raise DataError(f"{out} holds something else than shards; give a new folder")
        return {}
    given, wanted = manifest, plan.manifest
    if (given.seed, given.shard_bytes) != (wanted.seed, wanted.shard_bytes):
        settings = f"--seed {given.seed} and --shard-mb {given.shard_bytes / 1e6:g}"
        raise DataError(f"{out} was written with {settings}; give these, or another folder")
    if replace(given, shards=()) != wanted:
        raise DataError(f"the images have changed since {out} was begun; restore them, or give another folder")
    remove_leftovers(out)
    # A file that could not be read is tried again.
    return {record.file: record for record in given.shards if not record.skipped and record.fault(out) is None}


def _write(out: Path, name: str, pictures: Sequence[_Picture], advance: Callable[[int], None]) -> ShardRecord:
    skipped: dict[str, str] = {}
    rows = []
    with replacing(out / name) as temporary, temporary.open("wb") as file:
        shard = _Tar(file)
        for picture in pictures:
            advance(1)
            content = _content(picture, skipped)
            if content is None:
                continue
            member = f"{picture.stem}{picture.path.suffix}"
            rows.append((0, shard.add(member, content), len(content), picture.target, picture.place, member))
            shard.add(f"{picture.stem}.cls", str(picture.target).encode())
        size, digest = shard.finish()
    record = ShardRecord(name, size, digest, len(rows), 0, "", skipped)
    encoded = [(*row[:-1], os.fsencode(row[-1])) for row in rows]
    longest = max((len(row[-1]) for row in encoded), default=1)
    with replacing(out / record.index) as temporary:
        np.save(temporary, np.array(encoded, entry_type(longest)), allow_pickle=False)
        index = temporary.read_bytes()
    return replace(record, index_bytes=len(index), index_sha256=hashlib.sha256(index).hexdigest())


def _content(picture: _Picture, skipped: dict[str, str]) -> bytes | None:
    try:
        content = read_bytes(picture.path, MAX_BYTES)
    except OSError as error:
        broken = picture.path.is_symlink() and isinstance(error, FileNotFoundError)
        skipped[str(picture.path)] = "broken link" if broken else f"cannot be read ({reason(error)})"
        return None
    if len(content) != picture.size:
        raise DataError(f"{picture.path} changed while it was read; start again when the folder is at rest")
    return content


class _Tar:
    """A tar file of which every byte is decided by its members' names and contents."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def add(self, name: str, content: bytes) -> int:
        """Add a member; returns where its content begins."""
        self._append(_header(name, len(content)))
        start = self.size
        self._append(content)
        self._append(bytes(_padded(len(content)) - len(content)))
        return start

    def finish(self) -> tuple[int, str]:
        """End the file; returns its size and SHA-256."""
        self._append(bytes(_ended(self.size) - self.size))
        return self.size, self.digest.hexdigest()

    def _append(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)  # of time 0 and nobody's
    header.size = size
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _header_bytes(name: str) -> int:
    if name.isascii() and len(name) <= tarfile.LENGTH_NAME:  # making a million headers takes a minute
        return _BLOCK
    return len(_header(name, 0))


def _ended(size: int) -> int:
    """Bytes of a tar file whose members take ``size``."""
    return -(-(size + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
