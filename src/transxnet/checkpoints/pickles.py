"""Reading PyTorch's pickles without executing code or trusting their sizes."""

from __future__ import annotations

import argparse
import io
import pickletools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from transxnet.bounds import shown
from transxnet.checkpoints.archives import open_archive, read_part
from transxnet.errors import CheckpointError
from transxnet.files import open_regular
from transxnet.text import printable

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LEGACY_PICKLES = 5  # at the start of a file in PyTorch's legacy format
_MAX_OPERATIONS = 1_000_000  # of a pickle; a tensor takes about thirty
_MAX_NAME = 60  # characters in a message
_MAX_LONGS = 10_000  # integers beyond 32 bits, which can be chosen to collide as keys

# Globals needed for weights and plain values beside them. PyTorch allows more, some of which expand a few
# bytes to gigabytes: bytearray(10**10), or strings encoded repeatedly.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|(builtins|__builtin__)\.set"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device)|torch\.serialization\._get_layout|torch\.(storage\.)?\w+Storage"
    r"|torch\.(float|int|uint|bfloat|complex)\d+\w*|torch\.(bool|per_\w+)"
)
_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
}


def load_pickle(path: Path, *, shapes_only: bool = False) -> Any:
    """Load a pickle without executing code.

    Args:
        path: A regular file.
        shapes_only: Whether to check the pickle and load meta tensors, which take no memory for any
            claimed size. Call it with this first.

    Raises:
        CheckpointError: If the file would run code, or contains tensors of unsupported kinds.
        Exception: Of any class, if it is damaged.
    """
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")
        if not shapes_only:
            return torch.load(path, map_location="cpu", weights_only=True)
        with open_regular(path) as file:
            check_pickle(file, path)
        with torch.serialization.skip_data():
            return torch.load(path, map_location="meta", weights_only=True)


def check_pickle(file: BinaryIO, path: Path) -> None:
    """Check the globals that the pickles of a file import, without running them.

    Args:
        file: The file.
        path: Its path, for messages.

    Raises:
        CheckpointError: If one is not needed for weights.
        Exception: Of any class, if it is damaged.
    """
    unknown, ambiguous = [], False
    for name, entry, certain in _all_globals(file, path):
        if kind := _KINDS.get(name):
            raise CheckpointError(
                f"{path}: {shown(entry)} is a {kind} tensor; save the weights as ordinary tensors of floating point "
                "numbers"
            )
        ambiguous |= not certain
        if not _ALLOWED.fullmatch(name):
            unknown.append(printable(name[:_MAX_NAME]))
    if unknown:
        names = ", ".join(list(dict.fromkeys(unknown))[:3])
        raise CheckpointError(
            f"{path} is a pickle that would run code ({names}), which is refused. If you trust it, load it with "
            "torch.load yourself and save the bare state dict"
        )
    if ambiguous:
        raise ValueError("it is not a pickle of the protocol that PyTorch writes")


def _all_globals(file: BinaryIO, path: Path) -> Iterator[tuple[str, str, bool]]:
    """The globals of all pickles in a file, as from :func:`_globals`."""
    file.seek(0)
    start = file.read(len(_ZIP))
    file.seek(0)
    if start == _ZIP:
        with open_archive(file if isinstance(file, io.BytesIO) else path, path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            yield from _globals(io.BytesIO(read_part(archive, name)))
        return
    for _ in range(_LEGACY_PICKLES):
        if file.read(1) != _PICKLE:
            break
        file.seek(-1, io.SEEK_CUR)
        yield from _globals(file)


def _globals(file: BinaryIO) -> Iterator[tuple[str, str, bool]]:
    """The functions and classes that a pickle imports.

    Yields:
        The name as module.name, the last string before it, which is a key, and whether the name is certain.
    """
    texts = ["", ""]
    longs = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        longs += operation.name == "LONG1"
        if count >= _MAX_OPERATIONS or longs > _MAX_LONGS:
            raise ValueError("its pickle has more operations than weights need")
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", "."), texts[-1], operation.name == "GLOBAL"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts), "", False
        elif isinstance(argument, str):
            texts = [texts[-1], argument]
