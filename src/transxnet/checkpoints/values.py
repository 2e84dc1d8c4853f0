"""Values that a file gives, which may be of any kind and size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from transxnet.bounds import Bound, checked
from transxnet.errors import CheckpointError, ConfigError
from transxnet.files import MAX_TEXT_BYTES, reason

MAX_CLASSES = 1_000_000
"""Number of classes above which a file is not believed."""

MAX_SIDE = 16_384
"""Height and width in pixels above which a file is not believed."""

_MAX_SHOWN = 60


@contextmanager
def describing(source: object) -> Iterator[None]:
    """Turn whatever is wrong with a file's metadata into one line that names the file.

    Raises:
        CheckpointError: For any exception; one that is a CheckpointError passes.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # values of wrong kinds make a reader raise anything
        raise CheckpointError(f"{source}: its description of the network cannot be read ({why(error)})") from error


def why(error: Exception) -> str:
    """What went wrong, in one short line that shows what a file gives as it is written in code."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in reason(error))


def parse_description(description: Any) -> dict[str, Any]:
    """A file's metadata, which is JSON of an object.

    Raises:
        ValueError: If it is something else, or too long.
        RecursionError: If it is nested too deeply.
    """
    if not isinstance(description, str):
        raise ValueError(f"it is not text, but {shown(description)}")
    if len(description) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES:,} characters")
    about = json.loads(description)
    if not isinstance(about, dict):
        raise ValueError(f"it is no object, but {shown(about)}")
    return about


def shown(value: Any) -> str:
    """A value in one short line, the items of a short list included."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of many digits"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value):,} values"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{len(value):,} values"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of a range; raises ConfigError for anything else."""
    return int(checked(name, value, Annotated[int, Bound(low, high)]))


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number of a range; raises ConfigError for anything else, NaN too."""
    return float(checked(name, value, Annotated[float, Bound(low, high)]))


def text(name: str, value: Any, choices: Sequence[str] = ()) -> str:
    """A text, one of the choices if there are any; raises ConfigError for anything else."""
    if not isinstance(value, str) or (choices and value not in choices):
        listed = f"one of {', '.join(choices)}" if choices else "text"
        raise ConfigError(f"{name} must be {listed}, not {shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """A truth value; raises ConfigError for anything else."""
    return bool(checked(name, value, bool))


def items(name: str, value: Any, *counts: int) -> tuple[Any, ...]:
    """The items of a list, which has one of the given lengths; raises ConfigError for anything else."""
    if not isinstance(value, list | tuple) or (counts and len(value) not in counts):
        wanted = " or ".join(f"{count:,}" for count in dict.fromkeys(counts)) or "any number of"
        raise ConfigError(f"{name} must be a list of {wanted} values, not {shown(value)}")
    return tuple(value)


def label_names(value: Any, num_classes: int, name: str = "label_names") -> tuple[str, ...]:
    """Names of classes, as many as there are classes, or none; raises ConfigError for anything else."""
    names = items(name, [] if value is None else value, 0, num_classes)
    for index, label in enumerate(names):
        text(f"{name}[{index}]", label)
    return names
