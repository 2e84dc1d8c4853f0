"""The classes of a table's rows: indices, or names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transxnet.data.names import MAX_CLASSES, class_names_fault, natural_key
from transxnet.errors import DataError

_LABELS = ("label", "labels", "fine_label", "target", "cls", "class")
_SHOWN = 20  # columns that a message names


class Labels(NamedTuple):
    """What a table says of its rows' classes.

    Attributes:
        values: A class index or a class's name for each row, or None.
        names: Names of the classes by their indices; None where the table has none.
    """

    values: Sequence[int | str | None]
    names: Sequence[str] | None


def class_labels(root: Path, table: Any) -> Labels:
    """The labels of a table of the library ``datasets``.

    Raises:
        DataError: If no column holds whole numbers or texts of the usual names.
    """
    features = table.features
    fits = [name for name, feature in features.items() if hasattr(feature, "names") and hasattr(feature, "str2int")]
    fits = fits or [name for name in _LABELS if name in features]
    column = one_column(root, "classes", _LABELS, fits, list(features))
    values = table.select_columns([column]).with_format("arrow")[:][column]
    values.validate(full=True)
    if not _is_label(values.type):
        raise DataError(f"{root}: its column {column!r} holds {str(values.type)[:80]}, not class indices or names")
    names = getattr(features[column], "names", None)
    if names is not None and (fault := class_names_fault(names)):
        raise DataError(f"{root}: in its column {column!r} {fault}")
    return Labels(values.to_pylist(), names)


def _is_label(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string, types.is_null)
    return any(check(kind) for check in checks)


def one_column(root: Path, what: str, usual: Sequence[str], fits: Sequence[str], columns: Sequence[str]) -> str:
    """The only fitting column, or the first of the usual names among those that fit.

    Raises:
        DataError: If there is none.
    """
    if len(fits) == 1:
        return fits[0]
    for name in usual:
        if name in fits:
            return name
    there = ", ".join(columns[:_SHOWN]) + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
    raise DataError(f"{root} has no column of {what} named {', '.join(usual)}; its columns are {there}")


def class_names(root: Path, parts: Sequence[Labels]) -> tuple[str, ...]:
    """The names of all parts' classes, by their indices.

    Raises:
        DataError: If the parts do not agree, or there would be more than :data:`MAX_CLASSES` classes.
    """
    given = [part.names for part in parts if part.names is not None]
    if any(list(names) != list(given[0]) for names in given):
        raise DataError(f"{root}: its parts do not have the same classes in the same order")
    present = {value for part in parts for value in part.values if value is not None}
    numbers = {value for value in present if not isinstance(value, str)}
    if len(numbers) not in (0, len(present)):
        raise DataError(f"{root}: its labels are numbers in one part and names in the other")
    if given and numbers == present:
        return tuple(given[0])
    if numbers:
        largest = max(numbers)
        if largest >= MAX_CLASSES:
            raise DataError(f"{root}: a row has the class index {largest:,}; there may be {MAX_CLASSES:,} classes")
        return tuple(str(index) for index in range(largest + 1))
    names = sorted((str(name) for name in present), key=natural_key)
    if names and (fault := class_names_fault(names)):
        raise DataError(f"{root}: {fault}")
    return tuple(names)


def class_indices(root: Path, labels: Labels, names: Sequence[str]) -> npt.NDArray[np.intc]:
    """The class index of each row.

    Raises:
        DataError: If a row has no class.
    """
    position = {name: index for index, name in enumerate(names)}
    numbers = [
        position[value] if isinstance(value, str) else -1 if value is None else int(value) for value in labels.values
    ]
    bad = [row for row, number in enumerate(numbers) if not 0 <= number < len(names)]
    if bad:
        first = repr(labels.values[bad[0]])
        raise DataError(f"{root}: {len(bad)} rows have no class, the first is row {bad[0]} ({first})")
    return np.asarray(numbers, np.intc)
