"""Ranges of numeric settings, stored in their types, and validation of values against types."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from transxnet.errors import ConfigError

_MAX_ITEMS = 1000
"""Maximum length of a list whose type does not fix it."""

_MAX_DIGITS = 40
_MAX_SHOWN = 60  # characters of a string
_MAX_ITEMS_SHOWN = 8


@dataclass(frozen=True)
class Bound:
    """A finite interval.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        above: Whether the lower bound is excluded.
        below: Whether the upper bound is excluded.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in the interval; False for NaN."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low, high = _number(self.low), _number(self.high)
        if self.above:
            return f"above {low} and {'below' if self.below else 'up to'} {high}"
        return f"of at least {low} and below {high}" if self.below else f"from {low} to {high}"


BatchSize = Annotated[int, Bound(1, 65_536)]
"""Images in a batch, or batches whose gradients are accumulated."""
Workers = Annotated[int, Bound(0, 256)]
"""Processes that read images."""
Seed = Annotated[int, Bound(0, 2**32 - 1)]
"""The range that Lightning and NumPy accept."""
ImageSide = Annotated[int, Bound(32, 16_384)]
"""Height or width in pixels of an image that a network takes."""
ImageCount = Annotated[int, Bound(1, 1_000_000)]
"""Number of images to use or write."""
Answers = Annotated[int, Bound(1, 1_000_000)]
"""Number of classes listed per image."""

Share = Annotated[float, Bound(0, 1)]
PositiveShare = Annotated[float, Bound(0, 1, above=True)]
DropRate = Annotated[float, Bound(0, 1, below=True)]
"""A probability of dropping, or a factor of decay."""

Epochs = Annotated[int, Bound(1, 100_000)]
FurtherEpochs = Annotated[int, Bound(0, 100_000)]
"""Epochs of an optional part of the schedule."""
Steps = Annotated[int, Bound(0, 1_000_000)]
"""Steps of an optional part of the schedule."""
LearningRate = Annotated[float, Bound(0, 1000, above=True)]
LowestRate = Annotated[float, Bound(0, 1000)]
WeightDecay = Annotated[float, Bound(0, 1000)]
Beta = Annotated[float, Bound(0, 100)]
"""Parameter of a symmetric beta distribution; 0 turns it off."""
Crop = Annotated[float, Bound(0.1, 1)]
"""Share of a resized image's side that is cropped; the image is resized by its inverse."""
AspectRatio = Annotated[float, Bound(0, 1000, above=True)]
ScaleFactor = Annotated[float, Bound(0, 8, above=True)]

Devices = Annotated[int, Bound(1, 128)]
Nodes = Annotated[int, Bound(1, 10_000)]
StepImages = Annotated[int, Bound(0, 1_000_000_000)]
"""Images in a step over all devices; 0 if unset."""
Minutes = Annotated[float, Bound(0, 1_000_000)]
Tolerated = Annotated[int, Bound(1, 1_000_000)]
"""Maximum number of occurrences, or of files kept."""

PyramidChannels = Annotated[int, Bound(4, 2048)]
DenseClasses = Annotated[int, Bound(1, 10_000)]
Regions = Annotated[int, Bound(4, 10_000)]
"""Regions of an image that a detector proposes or is trained on."""

SceneSide = Annotated[int, Bound(64, 4096)]
"""Height or width in pixels of an embedded scene."""
Megabytes = Annotated[float, Bound(0, 1_000_000, above=True)]
ShardBytes = Annotated[int, Bound(1, 10**12)]
Rounds = Annotated[int, Bound(1, 1_000_000)]
Seconds = Annotated[float, Bound(0, 3600)]
SeedCount = Annotated[int, Bound(1, 1000)]

Port = Annotated[int, Bound(0, 65_535)]
"""A TCP port; 0 for any free one."""
Waiting = Annotated[int, Bound(1, 100_000)]
"""Images that wait for an answer."""
WaitingMilliseconds = Annotated[float, Bound(0, 10_000)]
Megapixels = Annotated[float, Bound(0.001, 180)]
"""Size of an image, up to the maximum of images that are read."""
ImagesPerRequest = Annotated[int, Bound(1, 1000)]
Connections = Annotated[int, Bound(1, 100_000)]
RequestSeconds = Annotated[float, Bound(0, 86_400, above=True)]
Replicas = Annotated[int, Bound(1, 64)]
"""Processes with a copy of the network, or that decode images."""

# The fields of a network's configuration.
Depth = Annotated[int, Bound(1, 1000)]
Channels = Annotated[int, Bound(1, 16_384)]
Heads = Annotated[int, Bound(1, 1024)]
Reduction = Annotated[int, Bound(1, 64)]
AttentionGroups = Annotated[int, Bound(1, 64)]
Expansion = Annotated[int, Bound(1, 64)]
KernelSize = Annotated[int, Bound(1, 63)]
OpenShare = Annotated[float, Bound(0, 1, above=True, below=True)]
InputChannels = Annotated[int, Bound(1, 1024)]
ClassCount = Annotated[int, Bound(0, 1_000_000)]
StoredSide = Annotated[int, Bound(1, 16_384)]
"""Height or width in pixels for which position biases are stored."""
ScaleInit = Annotated[float, Bound(-1e6, 1e6)]


def checked(name: str, value: Any, kind: Any) -> Any:
    """Validate the value of a setting and convert it to its type.

    Args:
        name: Name of the setting, for messages.
        value: The value. Lists are accepted for tuples, mappings for dataclasses, integers for floats;
            neither booleans nor strings are accepted for numbers.
        kind: The type: one of the annotated numbers above, str, bool, a Literal, a tuple, a dictionary
            with strings as keys, a dataclass of these, or any of them or None.

    Returns:
        The value; lists as tuples, numbers as int or float. A mapping for a dataclass is validated by
        :func:`checked_settings` and stays a mapping.

    Raises:
        ConfigError: If the value is not of the type, or a number is out of range.
    """
    return _checked(name, value, kind, described(kind))


def _checked(name: str, value: Any, kind: Any, wanted: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated and (result := _in_range(value, *inner)) is not None:
        return result
    if origin in (Union, UnionType):
        return None if value is None else _checked(name, value, _given(kind), wanted)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = _kinds_of_items(inner, len(value))
        if kinds is None:
            limit = f", at most {_MAX_ITEMS:,}" if inner[-1] is Ellipsis else ""
            raise ConfigError(f"{name} must be {wanted}{limit}, not {len(value):,} values")
        return tuple(_checked(name, item, each, wanted) for item, each in zip(value, kinds, strict=True))
    if origin is Literal and any(value == one and type(value) is type(one) for one in inner):
        return value
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str) and _is_plain(value):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            check_bounds(value, f"{name}.")
            return value
        if isinstance(value, Mapping):
            return checked_settings(kind, value, f"{name}.")
    quoted = " (put it in quotation marks)" if kind is str and isinstance(value, int | float) else ""
    raise ConfigError(f"{name} must be {wanted}, not {shown(value)}{quoted}")


def _in_range(value: Any, kind: type, bound: Bound) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return None
    return kind(value) if bound.holds(value) else None


def _is_plain(text: str) -> bool:
    """Whether a string can be a file name."""
    try:
        return b"\0" not in text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


def _given(kind: Any) -> Any:
    """The type inside an optional type."""
    (inner,) = (one for one in get_args(kind) if one is not type(None))
    return inner


def _kinds_of_items(inner: tuple[Any, ...], count: int) -> tuple[Any, ...] | None:
    """The types of a tuple's items; None if it cannot have that many."""
    if inner[-1] is Ellipsis:
        return inner[:1] * count if count <= _MAX_ITEMS else None
    return inner if count == len(inner) else None


def checked_settings(cls: type, values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Validate settings of a dataclass from a file or a command line.

    Args:
        cls: The dataclass.
        values: Name to value; settings that are left out keep their defaults.
        prefix: Prefix of the names in messages.

    Raises:
        ConfigError: If a name is unknown, or as :func:`checked`.
    """
    kinds = kinds_of(cls)
    for name in values:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1) if isinstance(name, str) else []
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"there is no setting {_quoted(f'{prefix}{name}')}{hint}")
    return {name: checked(f"{prefix}{name}", value, kinds[name]) for name, value in values.items()}


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Validate every field of a dataclass against its type.

    Raises:
        ConfigError: As :func:`checked`.
    """
    for name, kind in kinds_of(type(settings)).items():
        checked(f"{prefix}{name}", getattr(settings, name), kind)


def kinds_of(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, with their bounds."""
    return _kinds_of(cls)


@cache
def _kinds_of(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def described(kind: Any, *, plural: bool = False) -> str:
    """A type in words, such as "a whole number from 1 to 65,536"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        noun = "whole number" if inner[0] is int else "number"
        return f"{noun}s {inner[1]}" if plural else f"a {noun} {inner[1]}"
    if origin in (Union, UnionType):
        return f"{described(_given(kind))}, or null"
    if origin is tuple:
        items = described(inner[0], plural=True)
        return items if inner[-1] is Ellipsis else f"{len(inner)} {items}"
    if origin is Literal:
        *others, last = (json.dumps(one) for one in inner)
        return f"{', '.join(others)} or {last}" if others else last
    if kind is bool:
        return "true or false"
    return "text" if kind is str else "a mapping of names to values"


def shown(value: Any) -> str:
    """A value in one short line for an error message; short lists with their items."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        digits = int(value.bit_length() * math.log10(2)) + 1
        return str(value) if digits <= _MAX_DIGITS else f"a number of about {digits:,} digits"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple | Mapping) for item in value)
        if nested or len(value) > _MAX_ITEMS_SHOWN:
            return f"a list of {len(value):,} values"
        return f"[{', '.join(map(shown, value))}]"
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _quoted(text: str) -> str:
    """A string in quotation marks, without control characters, truncated if it is long."""
    return repr(text) if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]!r}... ({len(text):,} characters)"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
