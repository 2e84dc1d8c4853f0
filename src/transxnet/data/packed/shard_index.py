"""The index beside a shard: position of each image in the tar file, class and name."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from transxnet.data.packed.manifest import ShardRecord
from transxnet.files import check_regular, read_bytes, reason

Entries = npt.NDArray[np.void]


def entry_type(longest: int) -> np.dtype[np.void]:
    """Type of an entry: shard, position and size of the bytes, class, index in the folder ("place"), name.

    Args:
        longest: Length of the longest name in bytes.
    """
    numbers = [("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("target", "<i4"), ("place", "<i8")]
    return np.dtype([*numbers, ("name", f"S{max(longest, 1)}")])


def read_index(folder: Path, record: ShardRecord, classes: int, images: int) -> tuple[Entries, str | None]:
    """Read the index of a shard.

    Args:
        folder: Folder of the shards.
        record: The shard.
        classes: Number of classes.
        images: Number of images in the original folder.

    Returns:
        The entries, of :func:`entry_type`, and a problem or None. Unusable entries are dropped; usable
        ones with a wrong digest are returned, so that a check can decode their images.
    """
    nothing = np.empty(0, entry_type(1))
    try:
        size = check_regular(folder / record.index)
        if size != record.index_bytes:
            raise ValueError(f"it has {size:,} bytes, not {record.index_bytes:,}")
        content = read_bytes(folder / record.index, size)
        entries = _parsed(content)
        fault = _fault(entries, record, classes, images)
    except Exception as error:  # noqa: BLE001 (NumPy can raise anything for a damaged header)
        return nothing, f"{record.index} is damaged ({reason(error)})"
    if fault:
        return nothing, f"{record.index} is not the index of this shard: {fault}"
    if hashlib.sha256(content).hexdigest() != record.index_sha256:
        fault = f"{record.index} was changed after writing (SHA-256 differs from the manifest)"
    return entries, fault


def _parsed(content: bytes) -> Entries:
    """Parse an npy array and compare its header with the size of the data; raises ValueError."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of version {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, about unusual headers
        shape, _, kind = read_header(file)
    if kind.names is None or kind != entry_type(kind.itemsize - entry_type(1).itemsize + 1) or len(shape) != 1:
        raise ValueError("it is not a list of images")
    if math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError("its size differs from its header")
    return np.frombuffer(content, kind, offset=file.tell())


def _fault(entries: Entries, record: ShardRecord, classes: int, images: int) -> str | None:
    offsets, sizes, targets = entries["offset"], entries["size"], entries["target"]
    if len(entries) != record.images:
        return f"it has {len(entries)} images, not {record.images}"
    if not len(entries):
        return None
    if targets.min() < 0 or targets.max() >= classes:
        return f"it has a class index outside 0 to {classes - 1}"
    if min(offsets.min(), sizes.min()) < 0 or sizes.max() > record.bytes or (offsets > record.bytes - sizes).any():
        return "an image lies outside the shard"
    order = np.argsort(offsets, kind="stable")
    if (offsets[order][1:] < (offsets + sizes)[order][:-1]).any():
        return "two images overlap"
    if entries["place"].min() < 0 or entries["place"].max() >= images:
        return f"it has an image index outside 0 to {images - 1}"
    return None
