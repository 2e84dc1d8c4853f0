"""What a folder of shards says about itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transxnet.errors import DataError
from transxnet.files import write_text

_NAME = "manifest.json"
_FORMAT = "transxnet-shards-1"


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is complete.

    Attributes:
        file: Name of the tar file, such as "train-000000.tar".
        bytes: Its size.
        sha256: Its digest, in hexadecimal.
        images: Images in it.
        index_bytes: Size of the index beside it.
        index_sha256: Digest of the index.
        skipped: Files that could not be read when the shard was written, and why.
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
        """The part its images belong to: "train" or "val" (what the name begins with)."""
        return self.file.partition("-")[0]

    @property
    def index(self) -> str:
        """Name of the index file."""
        return self.file.removesuffix(".tar") + ".index.npy"

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the files' sizes."""
        for name, expected in ((self.file, self.bytes), (self.index, self.index_bytes)):
            try:
                size = (folder / name).stat().st_size
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if size != expected:
                return f"{name} has {size:,} bytes where the manifest says {expected:,}"
        return None


@dataclass(frozen=True)
class Manifest:
    """A folder of shards.

    Attributes:
        classes: Names of the classes, in the order of their indices.
        listing: Digest of the names, sizes and classes of the images.
        seed: Decides the order within the shards, and what is held out.
        shard_bytes: Size that no shard of several images exceeds.
        held_out: The images had no validation part; "val" is what the seed held out.
        planned: The number of shards there will be.
        shards: Those that are complete.
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
        write_text(folder / _NAME, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of shards; None if the folder has none of ours.

    Raises:
        DataError: If it is damaged.
    """
    path = folder / _NAME
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(written, dict) or written.pop("format", None) != _FORMAT:
            return None
        shards = tuple(ShardRecord(**record) for record in written.pop("shards"))
        manifest = Manifest(**written, shards=shards)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); write the shards again into a new folder") from error
    for record in shards:
        if Path(record.file).name != record.file:
            raise DataError(f"{path} names a file outside its folder: {record.file}")
    return manifest
