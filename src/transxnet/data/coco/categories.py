"""Categories and ids of COCO annotation files."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from transxnet.data.coco.records import CocoFile
from transxnet.data.findings import Findings
from transxnet.data.names import class_names_fault, listed
from transxnet.errors import DataError

_MAX_CATEGORIES = 20_000  # a detector's outputs grow with their number
_DIGITS = re.compile(r"\s*([+-]?[0-9]{1,19})(?:\.0*)?\s*")
_INTEGERS = -(2**63), 2**63


def whole(value: Any) -> int | None:
    """A whole number given as a number or as text, such as 3, 3.0 or "3"; None for other values."""
    if type(value) is int:
        number = value
    elif type(value) is float and math.isfinite(value) and value.is_integer():
        number = int(value)
    elif type(value) is str and len(value) < 40 and (match := _DIGITS.fullmatch(value)):
        number = int(match[1])
    else:
        return None
    return number if _INTEGERS[0] <= number < _INTEGERS[1] else None


def repeated(ids: Iterable[int | None]) -> str:
    """The ids that occur more than once with their indices, for a message; empty if there are none."""
    indices: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(ids):
        if number is not None:
            indices[number].append(index)
    several = [(number, found) for number, found in indices.items() if len(found) > 1]
    return listed([f"{number} at indices {listed([str(index) for index in found])}" for number, found in several])


def read_categories(path: Path, content: Mapping[str, Any], findings: Findings) -> dict[int, str]:
    """Category names by id, in ascending order.

    Args:
        path: The file, for messages.
        content: Its content, with a list of categories.
        findings: Receives the remarks.

    Raises:
        DataError: If there are none or too many, or an id or a name is missing or repeated.
    """
    entries = _without_groups(content, findings)
    if len(entries) > _MAX_CATEGORIES:
        raise DataError(f"{path} has {len(entries):,} categories, more than {_MAX_CATEGORIES:,}")
    ids: list[int] = []
    names: list[str] = []
    for entry in entries:
        number = whole(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            raise DataError(f"{path}: a category needs an integer id and a name, not {str(entry)[:80]}")
        ids.append(number)
        names.append(entry["name"])
    if not ids:
        raise DataError(f"{path} has no categories")
    if several := [number for number, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{path}: two categories have the id {several[0]}; ids must be unique ({repeated(ids)})")
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: two categories are named {doubled[0][:80]!r}; names must be unique")
    if fault := class_names_fault(names):
        raise DataError(f"{path}: {fault}")
    return dict(sorted(zip(ids, names, strict=True)))


def _without_groups(content: Mapping[str, Any], findings: Findings) -> list[Any]:
    """The categories without those that only group others, as Roboflow has them, and have no annotations."""
    categories: list[Any] = content["categories"]
    used = {whole(entry.get("category_id")) for entry in content["annotations"] if isinstance(entry, dict)}
    above = {str(entry.get("supercategory")) for entry in categories if isinstance(entry, dict)}
    groups = {
        index: str(entry["name"])
        for index, entry in enumerate(categories)
        if isinstance(entry, dict)
        and entry.get("supercategory") == "none"
        and entry.get("name") != "none"
        and str(entry.get("name")) in above
        and whole(entry.get("id")) not in used
    }
    if not groups or len(groups) == len(categories):
        return categories
    findings.remark(f"categories that only group others are not classes: {listed(list(groups.values()))}")
    return [entry for index, entry in enumerate(categories) if index not in groups]


def ordered(path: Path, content: CocoFile, classes: Sequence[str]) -> CocoFile:
    """The same annotations, with labels in the order of ``classes``.

    Names are compared in Unicode's composed form and, if that does not suffice, in lower case. A file may lack
    classes, and may have further categories without annotations.

    Raises:
        DataError: If it has other categories.
    """
    matched, changed = _matched(content.class_names, classes)
    unknown = [name for name in content.class_names if name not in matched]
    present = set(matched.values())
    missing = [name for name in classes if name not in present]
    used = {content.class_names[label] for label in np.unique(content.annotations.labels).tolist()}
    if unknown and (missing or used.intersection(unknown)):
        parts = [f"has {listed(unknown)}"] + [f"lacks {listed(missing)}"] * bool(missing)
        raise DataError(f"{path}: its categories are not the {len(classes)} expected classes: it {' and '.join(parts)}")
    if unknown:
        content.findings.remark(f"categories without annotations that are no classes: {listed(unknown)}")
    if missing:
        content.findings.remark(f"{path.name} has no category for {listed(missing)}")
    if changed:
        content.findings.remark(f"categories matched without regard to case: {listed(changed)}")
    position = {name: index for index, name in enumerate(classes)}
    labels = np.array([position.get(matched.get(name, ""), 0) for name in content.class_names])
    given = {matched[name]: id_ for name, id_ in zip(content.class_names, content.category_ids, strict=True)
             if name in matched}  # fmt: skip
    taken = set(content.category_ids)
    unused = (number for number in itertools.count(1) if number not in taken)
    ids = [given[name] if name in given else next(unused) for name in classes]
    annotations = replace(content.annotations, labels=labels[content.annotations.labels])
    return content._replace(class_names=tuple(classes), category_ids=tuple(ids), annotations=annotations)


def _matched(names: Sequence[str], classes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The class that each name means, and names that differ in case."""
    known = set(classes)
    matched = {name: name for name in names if name in known}
    changed: list[str] = []
    for form, differs in ((_composed, False), (_folded, True)):
        rest = [name for name in names if name not in matched]
        forms = Counter(map(form, rest))
        free: dict[str, list[str]] = defaultdict(list)
        for each in known.difference(matched.values()):
            free[form(each)].append(each)
        for name in rest:
            same = free.get(form(name), [])
            if len(same) == 1 and forms[form(name)] == 1:
                matched[name] = same[0]
                changed += [f"{name} for {same[0]}"] * differs
    return matched, changed


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold().strip()
