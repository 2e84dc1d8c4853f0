"""Manifests of folders of shards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transxnet.data.names import class_names_fault
from transxnet.errors import DataError
from transxnet.files import check_regular, read_json, reading, reason, write_text

MANIFEST = "manifest.json"
_FORMAT = "transxnet-shards-1"
_MAX_BYTES = 64 * 2**20
_MAX_NUMBER = 2**64
_SHARD_NAME = re.compile(r"(train|val)-[0-9]{6,9}\.tar")
_DIGEST = re.compile("[0-9a-f]{64}")
_ADVICE = "write the shards again into a new folder"


@dataclass(frozen=True)
class ShardRecord:
    """A complete shard.

    Attributes:
        file: Name of the tar file, such as "train-000000.tar".
        bytes: Its size.
        sha256: Its digest, in hexadecimal.
        images: Number of images.
        index_bytes: Size of the index beside it.
        index_sha256: Digest of the index.
        skipped: Files that could not be read when the shard was written, with the reason.
    """

    file: str
    bytes: int
    sha256: str
    images: int
    index_bytes: int
    index_sha256: str
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """The part of its images, "train" or "val": the prefix of the name."""
        return self.file.partition("-")[0]

    @property
    def index(self) -> str:
        """Name of the index file."""
        return self.file.removesuffix(".tar") + ".index.npy"

    def fault(self, folder: Path) -> str | None:
        """A problem of the files' kinds and sizes; None if there is none."""
        for name, expected in ((self.file, self.bytes), (self.index, self.index_bytes)):
            try:
                size = check_regular(folder / name)
            except OSError as error:
                return f"{name} cannot be read ({reason(error)})"
            if size != expected:
                return f"{name} has {size:,} bytes, but {expected:,} in the manifest"
        return None


@dataclass(frozen=True)
class Manifest:
    """A folder of shards.

    Attributes:
        classes: Names of the classes, in the order of their indices.
        listing: Digest of the names, sizes and classes of the images.
        seed: Seed of the order within the shards, and of the held-out images.
        shard_bytes: Maximum size of a shard, unless it has a single image.
        held_out: Whether "val" was held out by the seed, for lack of a validation part.
        planned: Number of shards when complete.
        shards: The complete shards.
    """

    classes: Sequence[str]
    listing: str
    seed: int
    shard_bytes: int
    held_out: bool
    planned: int
    shards: Sequence[ShardRecord] = ()

    @property
    def complete(self) -> bool:
        return len(self.shards) == self.planned

    def write(self, folder: Path) -> None:
        write_text(folder / MANIFEST, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder of shards; None if the folder has none of ours.

    Raises:
        DataError: If it is damaged.
    """
    path = folder / MANIFEST
    with reading(path, DataError, _ADVICE):
        try:
            content = read_json(path, _MAX_BYTES)
        except FileNotFoundError:
            return None
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            return None
        return _manifest(content)


def _manifest(content: Mapping[str, Any]) -> Manifest:
    """Validate the fields of a manifest; raises ValueError."""
    _check_fields(content, Manifest)
    classes, shards = content["classes"], content["shards"]
    if not isinstance(classes, list) or not isinstance(shards, list):
        raise ValueError("its classes and shards are not lists")
    if fault := class_names_fault(classes):
        raise ValueError(fault)
    if not isinstance(content["held_out"], bool):
        raise ValueError(_invalid("held_out", content["held_out"]))
    records = tuple(map(_record, shards))
    if len({record.file for record in records}) < len(records):
        raise ValueError("a shard is listed twice")
    planned = _number(content, "planned")
    if planned < len(records):
        raise ValueError(f"it has {len(records)} shards, but {planned} were planned")
    return Manifest(
        classes,
        _text(content, "listing", _DIGEST),
        _number(content, "seed"),
        _number(content, "shard_bytes"),
        content["held_out"],
        planned,
        records,
    )


def _record(content: Any) -> ShardRecord:
    if not isinstance(content, dict):
        raise ValueError(_invalid("a shard", content))
    _check_fields(content, ShardRecord)
    skipped = content["skipped"]
    if not isinstance(skipped, dict) or not all(isinstance(each, str) for each in skipped.values()):
        raise ValueError(_invalid("skipped", skipped))
    return ShardRecord(
        _text(content, "file", _SHARD_NAME),
        _number(content, "bytes"),
        _text(content, "sha256", _DIGEST),
        _number(content, "images"),
        _number(content, "index_bytes"),
        _text(content, "index_sha256", _DIGEST),
        skipped,
    )


def _check_fields(content: Mapping[str, Any], kind: type[Manifest | ShardRecord]) -> None:
    if unknown := content.keys() - kind.__dataclass_fields__.keys():
        raise ValueError(f"it has unknown fields: {', '.join(sorted(unknown))}")


def _number(content: Mapping[str, Any], name: str) -> int:
    value = content[name]
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError(_invalid(name, value))
    return value


def _text(content: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = content[name]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(_invalid(name, value))
    return value


def _invalid(name: str, value: Any) -> str:
    return f"{name} cannot be {str(value)[:80]!r}"
