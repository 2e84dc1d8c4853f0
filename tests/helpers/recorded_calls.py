"""Recording calls of the kernels with all memory that they read and write, to repeat them on another machine."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from transxnet.kernels.cpu import attention, batch_norm, blocks, build, depthwise, gelu, layer_scale, layouts, numbers

_CACHES: tuple[Any, ...] = (
    attention._functions, batch_norm._functions, blocks._functions, depthwise._functions, gelu._functions,
    layer_scale._function, numbers.function,
)  # fmt: skip
_address_of = ctypes.addressof
_data_ptr = Tensor.data_ptr


@dataclass
class Call:
    """A call of a kernel.

    Attributes:
        name: The function.
        packed: The call in the format that replay.cpp reads, without its outputs.
        result: What it returned.
        outputs: Index of the region, and the tensor's numbers after the call.
    """

    name: str
    packed: bytes = b""
    result: int = 0
    outputs: list[tuple[int, Tensor]] = field(default_factory=list)


class Recording:
    """Calls in order, with the numbers that they computed here."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._kept: dict[int, tuple[int, Any]] = {}  # size and owner of memory, by its address

    def __len__(self) -> int:
        return len(self.calls)

    def packed(self) -> bytes:
        """All calls as replay.cpp reads them."""
        parts = [_numbers(len(self.calls))]
        for call in self.calls:
            parts += [call.packed, _numbers(len(call.outputs), *(index for index, _ in call.outputs))]
        return b"".join(parts)

    def compare(self, replayed: bytes, tolerances: dict[torch.dtype, float]) -> None:
        """Compare with the output of replay.cpp, up to a share of the largest value of a tensor."""
        at = 0
        for call in self.calls:
            assert struct.unpack_from("<q", replayed, at) == (call.result,), call.name
            at += 8
            for _, expected in call.outputs:
                found = torch.frombuffer(bytearray(replayed[at : at + expected.nbytes]), dtype=expected.dtype)
                at, dtype = at + expected.nbytes, expected.dtype
                equal = (found == expected) | (found.isnan() & expected.isnan())  # NaN: uninitialised memory
                largest = expected[expected.isfinite()].abs().max() if expected.isfinite().any() else 0
                difference = (found[~equal].double() - expected[~equal].double()).abs()
                assert (difference <= tolerances[dtype] * largest).all(), f"{call.name}: {difference.max() / largest}"
        assert at == len(replayed)

    def keep_tensor(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return _data_ptr(tensor)

    def keep(self, structure: Any) -> int:
        self._kept[_address_of(structure)] = (ctypes.sizeof(structure), structure)
        return _address_of(structure)

    def made(self, name: str, function: Any, given: tuple[Any, ...]) -> Any:
        """Call a function, and record it."""
        call = Call(name)
        regions: dict[int, int] = {}
        arguments, relocations = [], []
        for one, kind in zip(given, function.argtypes or (), strict=True):
            arguments.append(self._argument(one, kind, regions))
        for start, index in ((each, regions[each]) for each in _growing(regions)):
            for offset, target in _pointers(self._kept[start][1]):
                if target:
                    relocations.append((index, offset, *self._located(target, regions)))
        parts = [_numbers(len(name)), name.encode(), _numbers(len(regions))]
        for start in regions:
            size = self._kept[start][0]
            parts += [_numbers(size), ctypes.string_at(start, size)]
        parts += [_numbers(len(relocations), *(value for each in relocations for value in each))]
        parts += [_numbers(len(arguments), *(value for each in arguments for value in each))]
        call.packed = b"".join(parts)
        result = function(*given)
        call.result = result or 0
        for start, index in regions.items():
            size, owner = self._kept[start]
            if isinstance(owner, Tensor) and owner.is_floating_point() and size:
                content = bytearray(ctypes.string_at(start, size))
                call.outputs.append((index, torch.frombuffer(content, dtype=owner.dtype)))
        self.calls.append(call)
        return result

    def _argument(self, given: Any, kind: Any, regions: dict[int, int]) -> tuple[int, int]:
        """Index of a region or -1, and the offset in it or the value."""
        if kind is ctypes.c_double:
            return -1, struct.unpack("<q", struct.pack("<d", given))[0]
        if kind in (ctypes.c_int, ctypes.c_int64):
            return -1, int(given)
        structure = getattr(given, "_obj", given)
        if isinstance(structure, ctypes.Structure | ctypes.Array):
            return self._located(self.keep(structure), regions)
        return self._located(given, regions) if given else (-1, 0)

    def _located(self, address: int, regions: dict[int, int]) -> tuple[int, int]:
        for start, (size, _) in self._kept.items():
            if start <= address < start + max(size, 1):
                return regions.setdefault(start, len(regions)), address - start
        raise AssertionError("a pointer to unknown memory")


def _growing(regions: dict[int, int]) -> Iterator[int]:
    """The keys, also those that are added meanwhile."""
    done = 0
    while done < len(regions):
        yield list(regions)[done]
        done += 1


def _pointers(owner: Any, at: int = 0) -> Iterator[tuple[int, int]]:
    """Offset and value of the pointers in a structure or an array of pointers."""
    if isinstance(owner, ctypes.Array) and owner._type_ is ctypes.c_void_p:
        yield from ((at + 8 * index, value or 0) for index, value in enumerate(owner))
    elif isinstance(owner, ctypes.Structure):
        for name, kind, *_ in owner._fields_:
            value, offset = getattr(owner, name), at + getattr(type(owner), name).offset
            if kind is ctypes.c_void_p:
                yield offset, value or 0
            else:
                yield from _pointers(value, offset)


def _numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


class _Function:
    def __init__(self, recording: Recording, name: str, function: Any) -> None:
        self._recording, self._name, self._function = recording, name, function

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("argtypes", "restype"):
            setattr(self._function, name, value)
        else:
            super().__setattr__(name, value)

    def __call__(self, *given: Any) -> Any:
        return self._recording.made(self._name, self._function, given)


class _Library:
    def __init__(self, recording: Recording, library: ctypes.CDLL) -> None:
        self._recording, self._library = recording, library
        self._functions: dict[str, _Function] = {}

    def __getattr__(self, name: str) -> _Function:
        return self._functions.setdefault(name, _Function(self._recording, name, getattr(self._library, name)))

    __getitem__ = __getattr__


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record all calls of kernels that compute in float32, and the sizes of their structures."""
    recording = Recording()
    library = build.library()
    for each in _CACHES:
        each.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_library", lambda float16: _Library(recording, library))
        patch.setattr(numbers, "has_float16", lambda: False)
        patch.setattr(Tensor, "data_ptr", lambda tensor: recording.keep_tensor(tensor))
        patch.setattr(ctypes, "addressof", recording.keep)
        for structure in (*layouts.SHARED, *layouts.FLOAT32):
            function = library[f"size_of_{structure.__name__}"]
            function.argtypes, function.restype = (), ctypes.c_int64
            recording.made(f"size_of_{structure.__name__}", function, ())
        yield recording
    for each in _CACHES:
        each.cache_clear()
