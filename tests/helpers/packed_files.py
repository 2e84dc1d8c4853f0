"""Folders of small images, and shards of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transxnet.data.packed.sharding import plan_shards, write_shards
from transxnet.data.sources import ImageSource

SMALL = 30_000  # bytes, so that a few images fill a shard


def encoded(index: int) -> bytes:
    """A PNG of noise determined by its index."""
    file = io.BytesIO()
    values = np.random.default_rng(index).integers(0, 256, (40, 36, 3), np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def fill(root: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index))
    return root


def sharded(folder: Path, out: Path, **settings: Any) -> Path:
    write_shards(plan_shards(str(folder), SMALL, **settings), out)
    return out


def assert_same(one: ImageSource, other: ImageSource) -> None:
    assert list(one.class_names) == list(other.class_names)
    assert list(one.targets) == list(other.targets)
    for index in range(len(one.targets)):
        assert np.array_equal(np.asarray(one.load(index)), np.asarray(other.load(index))), one.name(index)


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            shard.addfile(header, io.BytesIO(content))
