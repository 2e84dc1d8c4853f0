"""Reading PyTorch's pickles without executing code or trusting their sizes."""

from __future__ import annotations

import argparse
import io
import pickletools
import re
import warnings
from collections import OrderedDict
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
# Values that people keep beside their weights: scores, settings, paths and dates. Each is read as one of
# the three classes below, so nothing of these libraries is imported or called.
_IGNORED = re.compile(
    r"numpy\..+|collections\.(defaultdict|deque)|torch\.torch_version\.TorchVersion"
    r"|(builtins|__builtin__)\.(int|long|float|str|bool|complex|list|dict|tuple|frozenset|slice|range)"
    r"|(pathlib|pathlib\._local)\.\w+Path|(datetime|decimal|fractions|uuid|zoneinfo)\.\w+|types\.SimpleNamespace"
    r"|(lightning|lightning_fabric|pytorch_lightning|omegaconf|easydict|yacs|addict|ml_collections)\..+"
)
_DICTS = re.compile(r".*([dD]ict|CfgNode)")
_LISTS = ("collections.deque",)
_MAX_ENCODED = 2**29  # bytes that texts take if each call encodes the longest
_ENCODE = object()
_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
}


class _Ignored(list[Any]):
    """A value of no use here, instead of any class or function: arguments and state are dropped."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None: ...

    __hash__ = object.__hash__  # type: ignore[assignment]


class _Values:
    """The values of any class of lists; PyTorch 2.9 adds values to lists only, not to classes derived from them."""

    def __new__(cls, *arguments: Any, **settings: Any) -> list[Any]:  # type: ignore[misc]
        return []


class _Items:
    """The items of any class of mappings; PyTorch adds items to its own classes only."""

    def __new__(cls, *arguments: Any, **settings: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Encodings:
    """Follows calls of ``_codecs.encode``: Python's old protocols store bytes as text that is encoded in Latin-1.

    Other encodings could double their input again and again.
    """

    def __init__(self) -> None:
        self.found = False
        self._memo: dict[Any, Any] = {}
        self._last: Any = None
        self._stage = 0  # after the function: 1 expects the text, 2 "latin1", 3 their tuple, 4 the call

    def follows(self, operation: str, argument: Any) -> bool:
        """Take the next operation of a pickle; returns whether it is as in such a call, or outside of one."""
        if "PUT" in operation:
            self._memo[argument] = self._last
            return True
        self._last = self._memo.get(argument) if "GET" in operation else argument if isinstance(argument, str) else None
        if operation == "GLOBAL" and argument == "_codecs encode":
            self._last, self.found = _ENCODE, True
        if not self._stage:
            self._stage = int(self._last is _ENCODE)
            return True
        right = (isinstance(self._last, str), self._last == "latin1", operation == "TUPLE2", operation == "REDUCE")
        expected = right[self._stage - 1]
        self._stage = (self._stage + 1) % 5 if expected else 0
        return expected


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
    with open_regular(path) as file:
        ignored = check_pickle(file, path)
    known: list[Any] = [
        argparse.Namespace,
        *((_replacement(name), name) for name in ignored),
    ]
    with warnings.catch_warnings(), torch.serialization.safe_globals(known):
        warnings.simplefilter("ignore")
        if not shapes_only:
            return torch.load(path, map_location="cpu", weights_only=True)
        with torch.serialization.skip_data():
            return torch.load(path, map_location="meta", weights_only=True)


def _replacement(name: str) -> type:
    """The class that stands for a global that is ignored."""
    if name in _LISTS:
        return _Values
    return _Items if _DICTS.fullmatch(name) else _Ignored


def check_pickle(file: BinaryIO, path: Path) -> list[str]:
    """Check the globals that the pickles of a file import, without running them.

    Values of other libraries beside the weights, such as NumPy's scalars, are not needed and can be replaced.

    Args:
        file: The file.
        path: Its path, for messages.

    Returns:
        The globals that can be replaced, as module.name.

    Raises:
        CheckpointError: If one is neither needed for weights nor known to be a plain value's.
        Exception: Of any class, if it is damaged.
    """
    unknown, ignored, ambiguous = [], [], False
    for name, entry, certain in _all_globals(file, path):
        if kind := _KINDS.get(name):
            raise CheckpointError(
                f"{path}: {shown(entry)} is a {kind} tensor; save the weights as ordinary tensors of floating point "
                "numbers"
            )
        ambiguous |= not certain
        if _IGNORED.fullmatch(name):
            ignored.append(name.replace("__builtin__.", "builtins.").replace("s.long", "s.int"))  # as PyTorch finds it
        elif not _ALLOWED.fullmatch(name):
            unknown.append(printable(name[:_MAX_NAME]))
    if unknown:
        names = ", ".join(list(dict.fromkeys(unknown))[:3])
        raise CheckpointError(
            f"{path} is a pickle that would run code ({names}), which is refused. If you trust it, load it with "
            "torch.load yourself and save the bare state dict"
        )
    if ambiguous:
        raise ValueError("it is not a pickle of the protocol that PyTorch writes")
    return list(dict.fromkeys(ignored))


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
    longs = calls = longest = 0
    encodings = _Encodings()
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        longs += operation.name == "LONG1"
        if count >= _MAX_OPERATIONS or longs > _MAX_LONGS:
            raise ValueError("its pickle has more operations than weights need")
        calls += operation.name == "REDUCE"
        if not encodings.follows(operation.name, argument) or encodings.found * calls * longest > _MAX_ENCODED:
            yield "_codecs.encode", texts[-1], True
        elif argument == "_codecs encode":
            continue
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", "."), texts[-1], operation.name == "GLOBAL"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts), "", False
        elif isinstance(argument, str):
            texts = [texts[-1], argument]
            longest = max(longest, len(argument))
