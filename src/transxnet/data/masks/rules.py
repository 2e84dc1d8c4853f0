"""Rules that bring the values of masks and the names of classes together, each reported in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transxnet.data.findings import Findings
from transxnet.data.masks.class_files import VOC_CLASSES, ClassList, voc_palette
from transxnet.data.masks.classes import Colors, palette
from transxnet.data.masks.encoding import NO_CODE, VOC_BORDER, VOID, MaskEncoding, Totals, encoding, shown
from transxnet.data.masks.values import COLOR
from transxnet.data.names import listed
from transxnet.errors import DataError
from transxnet.text import counted

MAX_CLASSES = 254
"""Maximum number of classes: labels are bytes, of which 255 is ignored."""

BACKGROUND = "background"

_BACKGROUNDS = ("background", "_background_", "bg", "__background__", "unlabeled", "unlabelled", "void", "none")
_MAX_LEVELS = 18  # grey levels spread evenly over 0 to 255


@dataclass(frozen=True)
class Labelling:
    """Classes of a data set and the codes that its masks have for them.

    Attributes:
        names: Class names.
        colors: (classes, 3), uint8, for drawing.
        encoding: The class of each code.
    """

    names: tuple[str, ...]
    colors: Colors
    encoding: MaskEncoding


def label_by_rules(
    root: Path, classes: ClassList | None, totals: Totals, reduce_zero_label: bool, voc: bool, findings: Findings
) -> Labelling:
    """Decide the class of each code of a folder's masks.

    Args:
        root: The folder, for messages.
        classes: Classes as a file names them; None if there is none.
        totals: Values of all masks.
        reduce_zero_label: Whether value 0 (black) is ignored.
        voc: Whether the layout is Pascal VOC's.
        findings: Takes remarks on the rule that was followed, and problems.

    Raises:
        DataError: If the values and the classes cannot be brought together.
    """
    if totals.colored:
        names, codes = _by_colors(root, classes, totals, reduce_zero_label, voc, findings)
    elif classes is None:
        names, codes = _unnamed(totals, reduce_zero_label, voc, findings)
    elif classes.values:
        names, codes = list(classes.names), list(classes.values)
        if reduce_zero_label and 0 in codes:
            name = names[codes.index(0)]
            findings.add("classes that reduce_zero_label ignores (--reduce-zero-label false keeps them)", name)
            codes = [NO_CODE if code == 0 else code for code in codes]
    else:
        names, codes = _by_numbers(classes, totals.present, reduce_zero_label, findings)
    if not 0 < len(names) <= MAX_CLASSES:
        raise DataError(_count_fault(root, len(names), totals))
    colors = palette(len(names))
    if classes is not None:
        for index, name in enumerate(names):
            if name in classes.names:
                colors[index] = classes.colors[classes.names.index(name)]
    elif totals.colored:
        colors = np.array([[code >> shift & 255 for shift in (16, 8, 0)] for code in codes], np.uint8).reshape(-1, 3)
    return Labelling(tuple(names), colors, encoding(codes, totals, reduce_zero_label))


def needs_zero(root: Path, classes: ClassList | None, totals: Totals, voc: bool, findings: Findings) -> bool:
    """Whether value 0 is a class although ``reduce_zero_label`` ignores it: a single other one would be left.

    Arguments and errors as of :func:`label_by_rules`; a remark says what becomes of value 0.
    """
    if not {0, COLOR}.intersection(totals.present):
        return False
    left = label_by_rules(root, classes, totals, True, voc, Findings()).names
    if len(left) > 1:
        findings.remark("value 0 is ignored, as reduce_zero_label says; --reduce-zero-label false makes it a class")
        return False
    findings.remark(
        f"value 0 is a class although reduce_zero_label ignores it: {left[0]} alone would leave nothing to distinguish"
    )
    return True


def _count_fault(root: Path, count: int, totals: Totals) -> str:
    if not count:
        values = listed([shown(code) for code in totals.present])
        return f"{root} has 0 classes: the pixels of its masks have the value {values} only, which is ignored"
    return (
        f"{root} has {count:,} classes; masks may have 1 to {MAX_CLASSES}. Maps of instances, photographs and colours "
        "blended at borders are no masks of classes; a table of colours in classes.txt (name #rrggbb) chooses some"
    )


def _unnamed(totals: Totals, reduce_zero_label: bool, voc: bool, findings: Findings) -> tuple[list[str], list[int]]:
    """A class for each value."""
    present = [code for code in totals.present if code >= 0]
    if voc and [code for code in present if code != 255] == list(range(len(VOC_CLASSES))):
        findings.remark("the masks hold the values 0 to 20: they are named as Pascal VOC's classes")
        return list(VOC_CLASSES), list(range(len(VOC_CLASSES)))
    void = [code for code in present if code in VOID]
    if void and is_spread(present):
        if len(present) > 2:
            findings.remark(f"the values {_numbers(present)} spread evenly, so {present[-1]} is a class, not ignored")
        void = []
    codes = [code for code in present if code not in void and not (reduce_zero_label and code == 0)]
    if void:
        findings.remark(f"value {_numbers(void)} is ignored; name it in classes.txt to have a class of it")
    if codes and codes != list(range(codes[0], codes[-1] + 1)):
        findings.remark(
            f"the masks hold the values {_numbers(codes)}: each is a class, and no other number is; classes.txt, with "
            f"lines such as `{codes[-1]}: NAME`, names them or chooses others"
        )
    return [f"class {code}" for code in codes], codes


def is_spread(present: Sequence[int]) -> bool:
    """Whether grey levels spread evenly from 0 to 255 (or 65535), as 0 and 255 alone do."""
    steps = len(present) - 1
    if not 1 <= steps < _MAX_LEVELS or present[0] != 0 or present[-1] not in VOID:
        return False
    return all(abs(code - index * present[-1] / steps) <= 1 for index, code in enumerate(present))


def _by_numbers(
    classes: ClassList, present: Sequence[int], reduce_zero_label: bool, findings: Findings
) -> tuple[list[str], list[int]]:
    """Codes of classes that are named in order, without values."""
    names, file = list(classes.names), classes.path.name
    present = [code for code in present if code >= 0]
    void = [code for code in present if code in VOID and code >= len(names) + reduce_zero_label]
    rest = [code for code in present if code not in void and not (reduce_zero_label and code == 0)]
    plain = list(range(reduce_zero_label, len(names) + reduce_zero_label))
    spread, fits = is_spread(present), all(code in plain for code in rest)
    lacks_zero = 0 in present and not reduce_zero_label and not any(name.lower() in _BACKGROUNDS for name in names)
    choose = "; `value: name` lines there say otherwise"
    if reduce_zero_label and 0 in present and _is_shifted(names, present, spread):
        empty = names[0] if spread and len(names) == len(present) else names[-1]
        findings.remark(
            f"{empty} has no pixels: reduce_zero_label ignores value 0; if value 0 is {names[0]}, give "
            "--reduce-zero-label false"
        )
        if spread and len(names) == len(present):
            return names, [NO_CODE, *present[1:]]
    if void and len(rest) + len(void) == len(names) and not (fits and not spread):
        findings.remark(
            f"the values {_numbers([*rest, *void])} are the {counted(len(names), 'class')} of {file}, in order{choose}"
        )
        return names, [*rest, *void]
    if void and spread and lacks_zero and len(present) == len(names) + 1:
        findings.remark(f"value 0 is {BACKGROUND}, {_numbers(present[1:])} are the classes of {file}, in order{choose}")
        return [BACKGROUND, *names], list(present)
    if fits:
        return names, plain
    if len(rest) == len(names):
        findings.remark(
            f"the values {_numbers(rest)} are the {counted(len(names), 'class')} of {file}, in order{choose}"
        )
        return names, rest
    numbered = any(0 < code < len(names) for code in rest)
    if lacks_zero and (max(rest) == len(names) or (len(rest) == len(names) + 1 and not numbered)):
        codes = list(range(len(names) + 1)) if max(rest) == len(names) else rest
        findings.remark(
            f"{file} names {counted(len(names), 'class')} and the masks have more values: value 0 is {BACKGROUND}, and "
            f"{_numbers(codes[1:])} are the classes, in order (--reduce-zero-label true ignores 0{choose})"
        )
        return [BACKGROUND, *names], codes
    return names, plain


def _is_shifted(names: Sequence[str], present: Sequence[int], spread: bool) -> bool:
    """Whether names begin with the class of value 0, as far as the values show."""
    last = max((code for code in present if code not in VOID), default=0)
    if spread and len(names) == len(present):
        return True
    return last < len(names) and (names[0].lower() in _BACKGROUNDS or last == len(names) - 1)


def _by_colors(
    root: Path, classes: ClassList | None, totals: Totals, reduce_zero_label: bool, voc: bool, findings: Findings
) -> tuple[list[str], list[int]]:
    """Classes of masks in colours, by a table or by Pascal VOC's palette; else a class for each colour."""
    present = [code for code in totals.present if code != VOC_BORDER and not (reduce_zero_label and code == COLOR)]
    order = {code: index for index, code in reversed(list(enumerate(voc_palette())))}
    in_voc = all(code in order for code in present)
    if classes is not None and classes.color_codes:
        names, codes = list(classes.names), list(classes.color_codes)
        if COLOR in present and COLOR not in codes and not any(name.lower() in _BACKGROUNDS for name in names):
            findings.remark(
                f"black is not in {classes.path.name}: it is {BACKGROUND} (--reduce-zero-label true ignores it)"
            )
            return [BACKGROUND, *names], [COLOR, *codes]
        return names, codes
    if classes is not None:
        indices = sorted(order[code] for code in present) if in_voc else []
        if not in_voc or max(indices, default=0) >= len(classes.names) + reduce_zero_label:
            raise DataError(
                f"{root}: the masks are in colours ({listed([shown(code) for code in present], 4)}), and "
                f"{classes.path.name} names no colours; write one after each name, as in `road #804080`"
            )
        findings.remark(f"colours are read by Pascal VOC's palette; {classes.path.name} names them in its order")
        return list(classes.names), list(voc_palette()[reduce_zero_label : len(classes.names) + reduce_zero_label])
    if voc and in_voc:
        codes = sorted(present, key=order.__getitem__)
        whole = [order[code] for code in codes] == list(range(len(VOC_CLASSES)))
        findings.remark("colours are read by Pascal VOC's palette; classes.txt can name them (name #rrggbb)")
        return list(VOC_CLASSES) if whole else [f"class {order[code]}" for code in codes], codes
    findings.remark(
        f"the masks are in colours and no table names them: {listed([shown(code) for code in present], 6)} are a class "
        "each; classes.txt (name #rrggbb) names them"
    )
    return [shown(code) for code in present], present


def _numbers(codes: Sequence[int]) -> str:
    """Numbers in words: "0 to 7", "0, 7 and 200"."""
    if len(codes) > 2 and list(codes) == list(range(codes[0], codes[-1] + 1)):
        return f"{codes[0]} to {codes[-1]}"
    if len(codes) > 12:
        return listed([str(code) for code in codes], 12)
    return ", ".join(map(str, codes[:-1])) + (" and " if len(codes) > 1 else "") + str(codes[-1]) if codes else "none"
