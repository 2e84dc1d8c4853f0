"""Validation of values from a file's metadata, which may be of any type and size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from transxnet.bounds import Bound, checked, shown
from transxnet.errors import CheckpointError, ConfigError
from transxnet.files import MAX_TEXT_BYTES, reason

MAX_CLASSES = 1_000_000
"""Maximum number of classes in a file."""

MAX_SIDE = 16_384
"""Maximum height and width in pixels in a file."""


@contextmanager
def reading_metadata(source: object) -> Iterator[None]:
    """Convert any exception about a file's metadata to a one-line error that names the file.

    Raises:
        CheckpointError: For any exception.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # values of wrong types can raise anything
        raise CheckpointError(f"{source}: its metadata cannot be read ({reason(error)})") from error


def parse_metadata(metadata: Any) -> dict[str, Any]:
    """Parse a file's metadata, a JSON object.

    Raises:
        ValueError: If it is not a JSON object, or too long.
        RecursionError: If it is nested too deeply.
    """
    if not isinstance(metadata, str):
        raise ValueError(f"it is not text, but {shown(metadata)}")
    if len(metadata) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES:,} characters")
    values = json.loads(metadata)
    if not isinstance(values, dict):
        raise ValueError(f"it is not a JSON object, but {shown(values)}")
    return values


def whole(name: str, value: Any, low: int, high: int) -> int:
    """An integer in a range; raises ConfigError for anything else."""
    return int(checked(name, value, Annotated[int, Bound(low, high)]))


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in a range; raises ConfigError for anything else, including NaN."""
    return float(checked(name, value, Annotated[float, Bound(low, high)]))


def text(name: str, value: Any, choices: Sequence[str] = ()) -> str:
    """A string, one of the choices if given; raises ConfigError for anything else."""
    if not isinstance(value, str) or (choices and value not in choices):
        listed = f"one of {', '.join(choices)}" if choices else "text"
        raise ConfigError(f"{name} must be {listed}, not {shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """A boolean; raises ConfigError for anything else."""
    return bool(checked(name, value, bool))


def items(name: str, value: Any, *counts: int) -> tuple[Any, ...]:
    """The items of a list with one of the given lengths; raises ConfigError for anything else."""
    if not isinstance(value, list | tuple) or (counts and len(value) not in counts):
        lengths = " or ".join(f"{count:,}" for count in dict.fromkeys(counts)) or "any number of"
        raise ConfigError(f"{name} must be a list of {lengths} values, not {shown(value)}")
    return tuple(value)


def label_names(value: Any, num_classes: int, name: str = "label_names") -> tuple[str, ...]:
    """Class names, one per class or none; raises ConfigError for anything else."""
    names = items(name, [] if value is None else value, 0, num_classes)
    for index, label in enumerate(names):
        text(f"{name}[{index}]", label)
    return names
