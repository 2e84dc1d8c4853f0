"""Class labels of tables, as indices or names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transxnet.data.names import MAX_CLASSES, class_names_fault, listed, name_key, natural_key, same_names
from transxnet.errors import DataError

_LABELS = ("label", "labels", "fine_label", "target", "cls", "class")
_MAX_SHOWN = 20  # columns in a message


class Labels(NamedTuple):
    """Class labels of a table's rows.

    Attributes:
        values: The class index or name of each row, or None.
        names: Names of the classes in the order of their indices; None if the table has none.
    """

    values: Sequence[int | str | None]
    names: Sequence[str] | None


def class_labels(root: Path, table: Any) -> Labels:
    """Read the labels of a table of the library ``datasets``.

    Raises:
        DataError: If no column with one of the usual names has integers or strings.
    """
    features = table.features
    found = [name for name, feature in features.items() if hasattr(feature, "names") and hasattr(feature, "str2int")]
    found = found or [name for name in _LABELS if name in features]
    column = one_column(root, "classes", _LABELS, found, list(features))
    values = table.select_columns([column]).with_format("arrow")[:][column]
    values.validate(full=True)
    if not _is_label(values.type):
        raise DataError(f"{root}: its column {column!r} has type {str(values.type)[:80]}, not class indices or names")
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


def one_column(root: Path, kind: str, usual: Sequence[str], found: Sequence[str], columns: Sequence[str]) -> str:
    """The only candidate among a table's columns, or the first one with a usual name.

    Args:
        root: The data set's folder, for messages.
        kind: Contents of the column, for messages.
        usual: The usual names.
        found: The candidates.
        columns: All columns.

    Raises:
        DataError: If there is none.
    """
    if len(found) == 1:
        return found[0]
    for name in usual:
        if name in found:
            return name
    known = listed(columns, _MAX_SHOWN)
    raise DataError(f"{root} has no column of {kind} named {', '.join(usual)}; its columns are {known}")


def class_names(root: Path, parts: Sequence[Labels]) -> tuple[str, ...]:
    """The class names of all parts, in the order of their indices.

    Raises:
        DataError: If the parts disagree, or there are more than :data:`MAX_CLASSES` classes.
    """
    given = [part.names for part in parts if part.names is not None]
    if any(not same_names(names, given[0]) for names in given):
        raise DataError(f"{root}: its parts do not have the same classes in the same order")
    present = {value for part in parts for value in part.values if value is not None}
    numbers = {value for value in present if not isinstance(value, str)}
    if len(numbers) not in (0, len(present)):
        raise DataError(f"{root}: some labels are numbers and others names")
    if given and numbers == present:
        return tuple(given[0])
    if numbers:
        largest = max(numbers)
        if largest >= MAX_CLASSES:
            raise DataError(f"{root}: a row has the class index {largest:,}, more than {MAX_CLASSES - 1:,}")
        return tuple(str(index) for index in range(largest + 1))
    spellings: dict[str, str] = {}
    for name in sorted((str(name) for name in present), key=natural_key):
        spellings.setdefault(name_key(name), name)
    names = list(spellings.values())
    if names and (fault := class_names_fault(names)):
        raise DataError(f"{root}: {fault}")
    return tuple(names)


def class_indices(root: Path, labels: Labels, names: Sequence[str]) -> npt.NDArray[np.intc]:
    """The class index of each row.

    Raises:
        DataError: If a row has no class.
    """
    position = {name_key(name): index for index, name in enumerate(names)}
    numbers = [
        position[name_key(value)] if isinstance(value, str) else -1 if value is None else int(value)
        for value in labels.values
    ]
    bad = [row for row, number in enumerate(numbers) if not 0 <= number < len(names)]
    if bad:
        first = repr(labels.values[bad[0]])
        raise DataError(f"{root}: {len(bad)} rows have no class, the first is row {bad[0]} ({first})")
    return np.asarray(numbers, np.intc)
