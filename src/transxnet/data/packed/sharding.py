"""Writing a folder of images as tar shards, resumable after an interruption."""

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

from transxnet.bounds import Seed, ShardBytes, checked
from transxnet.data.findings import Findings
from transxnet.data.images.reading import MAX_BYTES
from transxnet.data.names import SYSTEM_FILES, name_key
from transxnet.data.packed.manifest import Manifest, ShardRecord, read_manifest
from transxnet.data.packed.shard_index import entry_type
from transxnet.data.randomness import seed_for
from transxnet.data.sources import FolderSource, open_parts
from transxnet.data.splits import held_out
from transxnet.errors import DataError
from transxnet.files import read_bytes, reason, remove_leftovers, replacing

_BLOCK = tarfile.BLOCKSIZE
_LEFTOVERS = ".transxnet-*.tmp*"  # temporary files of killed processes


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image to write.

    Attributes:
        path: The file.
        size: Its size in bytes; 0 if unknown.
        target: Its class index.
        index: Its index in the folder's part.
        stem: Its name in the tar file, without the suffix.
    """

    path: Path
    size: int
    target: int
    index: int
    stem: str


@dataclass(frozen=True)
class Plan:
    """A plan of all shards, made before writing.

    Attributes:
        manifest: Manifest of the output folder, without shards.
        shards: File name and images of each shard.
        findings: Problems of the folder, and remarks on how it was read.
    """

    manifest: Manifest
    shards: Sequence[tuple[str, Sequence[_Picture]]]
    findings: Findings

    @property
    def images(self) -> int:
        return sum(len(pictures) for _, pictures in self.shards)


def plan_shards(folder: str, shard_bytes: int, seed: int = 0) -> Plan:
    """Assign images to shards: shuffled by the seed, filled up to a size.

    Args:
        folder: A folder of images, as for :func:`transxnet.data.sources.open_data`.
        shard_bytes: Maximum size of a shard, unless it has a single image.
        seed: Seed of the order, and of the held-out images if there is no validation part.

    Raises:
        DataError: If it is not a folder of images.
        ConfigError: If a number is out of range.
    """
    checked("shard_bytes", shard_bytes, ShardBytes)
    checked("seed", seed, Seed)
    opened = open_parts(folder)
    sources = {part: source for part, source in opened.sources.items() if isinstance(source, FolderSource)}
    if not sources:
        raise DataError(f"{folder} is packed already; give a folder of image files")
    parts = {part: _pictures(source) for part, source in sources.items()}
    divide = list(parts) == ["train"]
    if divide:
        held = held_out(sources["train"].targets, seed)  # possibly none: all images can be evaluated
        everything = parts["train"]
        for name, validation in (("train", False), ("val", True)):
            parts[name] = [picture for picture in everything if held[picture.index] == validation]
    shards = []
    for number, name in enumerate(("train", "val")):
        part = parts.get(name, [])
        order = np.random.default_rng(seed_for(seed, number)).permutation(len(part))
        filled = _filled([part[index] for index in order], shard_bytes)
        shards += [(f"{name}-{index:06}.tar", contents) for index, contents in enumerate(filled)]
    listing = hashlib.sha256()
    for name, contents in shards:
        for picture in contents:
            entry = name, picture.stem, picture.path.suffix, picture.size, picture.target, picture.index
            listing.update(repr(entry).encode())
    class_names = next(iter(sources.values())).class_names
    manifest = Manifest(list(class_names), listing.hexdigest(), seed, shard_bytes, divide, planned=len(shards))
    return Plan(manifest, shards, opened.findings)


def write_shards(plan: Plan, out: Path, advance: Callable[[int], None] = lambda count: None) -> tuple[Manifest, int]:
    """Write the missing shards; returns the manifest and the number of shards that were complete.

    Args:
        plan: The plan.
        out: A folder that is new, empty, or has some of the same shards.
        advance: Called with the number of images just written.

    Raises:
        DataError: If the folder has other files, is being written to, or is not writable.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            complete = _complete(plan, out)
            kept, records = len(complete), list[ShardRecord]()
            if not kept:
                plan.manifest.write(out)  # claims the folder before the first shard is written
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
            f"{out} cannot be written ({error.strerror or error}); repeat the command to continue"
        ) from error


def _pictures(source: FolderSource) -> list[_Picture]:
    taken: set[tuple[int, str]] = set()
    pictures = []
    for index, (path, target) in enumerate(zip(source.paths, source.targets, strict=True)):
        stem = base = _stem(path, source.class_names[target])
        count = 1
        while (target, stem) in taken:  # 1.jpg beside 1.png: readers would merge them into one sample
            count += 1
            stem = f"{base}_{count}"
        taken.add((target, stem))
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        pictures.append(_Picture(path, size, target, index, f"{source.class_names[target]}/{stem}"))
    return pictures


def _stem(path: Path, class_name: str) -> str:
    folders = path.parts[:-1]
    names = [name_key(name).casefold() for name in folders[::-1]]
    below = folders[len(folders) - names.index(name_key(class_name).casefold()) :]
    return "_".join((*below, path.stem)).replace(".", "_")  # a sample's name ends at the first dot


def _filled(pictures: Sequence[_Picture], limit: int) -> Iterator[list[_Picture]]:
    shard: list[_Picture] = []
    total = 0
    for picture in pictures:
        headers = _header_bytes(f"{picture.stem}{picture.path.suffix}") + _header_bytes(f"{picture.stem}.cls")
        size = headers + _padded(picture.size) + _BLOCK
        if shard and _ended(total + size) > limit:
            yield shard
            shard, total = [], 0
        shard.append(picture)
        total += size
    if shard:
        yield shard


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"another process is writing to {out}") from error
    finally:
        os.close(descriptor)


def _complete(plan: Plan, out: Path) -> dict[str, ShardRecord]:
    """The complete shards; temporary files of an interrupted run are removed."""
    manifest = read_manifest(out)
    if manifest is None:
        ours = {path.name for path in out.glob(_LEFTOVERS)}
        if any(path.name not in ours | SYSTEM_FILES for path in out.iterdir()):
            raise DataError(f"{out} contains other files than shards; give a new folder")
        return {}
    expected = plan.manifest
    if (manifest.seed, manifest.shard_bytes) != (expected.seed, expected.shard_bytes):
        settings = f"--seed {manifest.seed} and --shard-mb {manifest.shard_bytes / 1e6:g}"
        raise DataError(f"{out} was written with {settings}; give these, or another folder")
    if replace(manifest, shards=()) != expected:
        raise DataError(f"the images have changed since {out} was started; restore them, or give another folder")
    remove_leftovers(out)
    # Files that could not be read are tried again.
    return {record.file: record for record in manifest.shards if not record.skipped and record.fault(out) is None}


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
            rows.append((0, shard.add(member, content), len(content), picture.target, picture.index, member))
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
        raise DataError(f"{picture.path} changed while it was read; try again when nothing writes to the folder")
    return content


class _Tar:
    """A tar file whose bytes depend only on its members' names and contents."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def add(self, name: str, content: bytes) -> int:
        """Add a member; returns the offset of its content."""
        self._append(_header(name, len(content)))
        start = self.size
        self._append(content)
        self._append(bytes(_padded(len(content)) - len(content)))
        return start

    def finish(self) -> tuple[int, str]:
        """Finish the file; returns its size and SHA-256."""
        self._append(bytes(_ended(self.size) - self.size))
        return self.size, self.digest.hexdigest()

    def _append(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)  # without time and owner
    header.size = size
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _header_bytes(name: str) -> int:
    if name.isascii() and len(name) <= tarfile.LENGTH_NAME:  # a million headers take a minute
        return _BLOCK
    return len(_header(name, 0))


def _ended(size: int) -> int:
    """Size of a tar file whose members take ``size`` bytes."""
    return -(-(size + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
