"""PyTorch's files, read without executing anything and without believing their sizes."""

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

from transxnet.checkpoints.archives import open_archive, read_part
from transxnet.checkpoints.values import shown
from transxnet.errors import CheckpointError
from transxnet.files import open_regular

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_OLD_PICKLES = 5  # at the start of a file in PyTorch's old format
_MAX_OPERATIONS = 1_000_000  # of a pickle; a tensor takes about thirty
_MAX_LONGS = 10_000  # numbers beyond 32 bits, which can be made to collide as keys

# What weights, and the plain values beside them, are made of. PyTorch admits more, some of which makes
# gigabytes of a few bytes: bytearray(10**10), or texts encoded again and again.
_ADMITTED = re.compile(
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
    """What a file holds, without its code.

    Args:
        path: A regular file.
        shapes_only: Whether tensors are to be made without values: meta tensors, which take no memory
            whatever size they claim. Call it so first.

    Raises:
        CheckpointError: If the file wants to run code, or holds tensors of kinds that no network has.
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
    """Look through the pickles of a file for what they look up, without running them.

    Args:
        file: The file.
        path: What to call it in messages.

    Raises:
        CheckpointError: If something is not needed for weights.
        Exception: Of any class, if it is damaged.
    """
    strange, unsure = [], False
    for name, entry, sure in _wanted(file, path):
        if kind := _KINDS.get(name):
            raise CheckpointError(
                f"{path}: {shown(entry)} is a {kind} tensor; save the weights as ordinary tensors of floating point "
                "numbers"
            )
        unsure |= not sure
        if not _ADMITTED.fullmatch(name):
            strange.append(shown(name)[1:-1])
    if strange:
        names = ", ".join(list(dict.fromkeys(strange))[:3])
        raise CheckpointError(
            f"{path} is a pickle that wants to run code of its own ({names}), which is never done. If you "
            "trust it, load it with torch.load yourself and save the bare state dict"
        )
    if unsure:
        raise ValueError("it is no pickle of the protocol that PyTorch writes")


def _wanted(file: BinaryIO, path: Path) -> Iterator[tuple[str, str, bool]]:
    """What a file looks up, as :func:`_looked_up`, from all its pickles."""
    file.seek(0)
    start = file.read(len(_ZIP))
    file.seek(0)
    if start == _ZIP:
        with open_archive(file if isinstance(file, io.BytesIO) else path, path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            yield from _looked_up(io.BytesIO(read_part(archive, name)))
        return
    for _ in range(_OLD_PICKLES):
        if file.read(1) != _PICKLE:
            break
        file.seek(-1, io.SEEK_CUR)
        yield from _looked_up(file)


def _looked_up(file: BinaryIO) -> Iterator[tuple[str, str, bool]]:
    """The functions and classes that a pickle looks up.

    Yields:
        The name as module.name, the last text before it, which is a key, and whether the name is sure.
    """
    texts = ["", ""]
    longs = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        longs += operation.name == "LONG1"
        if count >= _MAX_OPERATIONS or longs > _MAX_LONGS:
            raise ValueError("its pickle has more parts than weights need")
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", "."), texts[-1], operation.name == "GLOBAL"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts), "", False
        elif isinstance(argument, str):
            texts = [texts[-1], argument]
