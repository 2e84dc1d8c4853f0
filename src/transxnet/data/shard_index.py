"""The index beside a shard: where each image lies in the tar file, its class, its name."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from transxnet.data.manifest import ShardRecord
from transxnet.files import check_regular, read_bytes, reason

Entries = npt.NDArray[np.void]


def entry_type(longest: int) -> np.dtype[np.void]:
    """One image: its shard, where its bytes are, its class, its place in the folder, its name in the tar file.

    Args:
        longest: Bytes of the longest name.
    """
    numbers = [("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("target", "<i4"), ("place", "<i8")]
    return np.dtype([*numbers, ("name", f"S{max(longest, 1)}")])


def read_index(folder: Path, record: ShardRecord, classes: int, images: int) -> tuple[Entries, str | None]:
    """The entries of a shard's index, of :func:`entry_type`, and what is wrong with it.

    Args:
        folder: That of the shards.
        record: The shard.
        classes: Number of classes.
        images: Number of images in the folder that was written.

    Returns:
        No entries if they cannot be used; those that can be used, although the bytes are not those
        that were written, are given for a check to name what they lead to.
    """
    nothing = np.empty(0, entry_type(1))
    try:
        size = check_regular(folder / record.index)
        if size != record.index_bytes:
            raise ValueError(f"it has {size:,} bytes, not {record.index_bytes:,}")
        content = read_bytes(folder / record.index, size)
        entries = _parsed(content)
        fault = _fault(entries, record, classes, images)
    except Exception as error:  # noqa: BLE001 (a header makes NumPy raise anything)
        return nothing, f"{record.index} is damaged ({reason(error)})"
    if fault:
        return nothing, f"{record.index} is not the index of this shard: {fault}"
    if hashlib.sha256(content).hexdigest() != record.index_sha256:
        fault = f"the bytes of {record.index} are not those that were written (SHA-256 differs from the manifest's)"
    return entries, fault


def _parsed(content: bytes) -> Entries:
    """An array of the npy format, if its header fits the bytes that follow it; raises ValueError otherwise."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of version {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of odd text
        shape, _, kind = read_header(file)
    if kind.names is None or kind != entry_type(kind.itemsize - entry_type(1).itemsize + 1) or len(shape) != 1:
        raise ValueError("it is not a list of images")
    if math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError("its size is not what its header says")
    return np.frombuffer(content, kind, offset=file.tell())


def _fault(entries: Entries, record: ShardRecord, classes: int, images: int) -> str | None:
    offsets, sizes, targets = entries["offset"], entries["size"], entries["target"]
    if len(entries) != record.images:
        return f"it has {len(entries)} images, not {record.images}"
    if not len(entries):
        return None
    if targets.min() < 0 or targets.max() >= classes:
        return f"it has a class index that is not 0 to {classes - 1}"
    if min(offsets.min(), sizes.min()) < 0 or sizes.max() > record.bytes or (offsets > record.bytes - sizes).any():
        return "an image lies outside the shard"
    order = np.argsort(offsets, kind="stable")
    if (offsets[order][1:] < (offsets + sizes)[order][:-1]).any():
        return "two images overlap"
    if entries["place"].min() < 0 or entries["place"].max() >= images:
        return f"it numbers an image otherwise than 0 to {images - 1}"
    return None
