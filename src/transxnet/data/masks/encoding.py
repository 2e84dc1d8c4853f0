"""The class of each value or colour of masks, decided once for a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from transxnet.data.findings import Findings
from transxnet.data.masks.class_files import ClassList
from transxnet.data.masks.values import COLOR, Codes, Mask, MaskSummary, Values, is_grey, nearest
from transxnet.dense.pixel_classes import IGNORED

NO_CODE = -2
"""Code of a class that no pixel can have."""

VOID = (255, 65535)
"""Values that are ignored unless a class has them."""

VOC_BORDER = COLOR + 0xE0E0C0
"""Code of the colour of borders in Pascal VOC's palette."""

_PEAK_WIDTH, _PEAK_SHARE = 16, 0.003


@dataclass(frozen=True)
class MaskEncoding:
    """The class of each code of masks.

    Attributes:
        codes: Code of each class, in the order of the classes.
        ignored: Codes that are no class by intention.
        colored: Whether codes are colours.
        bit_value: Value of the set pixels of masks of one bit.
    """

    codes: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    colored: bool = False
    bit_value: int = 1

    @cached_property
    def _known(self) -> tuple[Codes, npt.NDArray[np.uint8]]:
        """All known codes, rising, and the class of each."""
        labels = dict.fromkeys(self.ignored, IGNORED)
        labels |= {code: label for label, code in enumerate(self.codes) if code != NO_CODE}
        known = sorted(labels)
        return np.array(known, np.int64), np.array([labels[code] for code in known], np.uint8)

    def classes(self, codes: Codes, *, lossy: bool = False) -> npt.NDArray[np.uint8]:
        """The class of each code (n), 255 for none; codes of lossy masks are rounded to known ones."""
        known, labels = self._known
        if not len(known):
            return np.full(len(codes), IGNORED, np.uint8)
        codes = nearest(codes, known) if lossy else codes
        index = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return np.where(known[index] == codes, labels[index], IGNORED).astype(np.uint8)

    def is_known(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """Whether each code is a class, or ignored by intention. Shape: (n)."""
        return np.isin(codes, self._known[0])

    def labels(self, mask: Mask) -> npt.NDArray[np.uint8]:
        """The class of each pixel of a mask, (H, W); 255 for none."""
        codes = mask.codes(self.colored, self.bit_value)
        if codes.dtype == np.uint8:
            table = self.classes(np.arange(256), lossy=mask.lossy)
            return table[codes]
        unique, index = np.unique(codes, return_inverse=True) if mask.lossy else (None, None)
        if unique is None:
            return self.classes(codes.ravel().astype(np.int64)).reshape(codes.shape)
        return self.classes(unique.astype(np.int64), lossy=True)[index].reshape(codes.shape)


@dataclass(frozen=True)
class Totals:
    """Values of all masks of a data set.

    Attributes:
        pixels: Pixels of each code, the codes rising.
        colored: Whether codes are colours.
        bit_value: As of :class:`MaskEncoding`.
    """

    pixels: Mapping[int, int]
    colored: bool
    bit_value: int

    @property
    def present(self) -> list[int]:
        """All codes."""
        return list(self.pixels)


def codes_in(summary: MaskSummary, colored: bool, bit_value: int) -> Codes:
    """Codes of a mask's values, as :meth:`Mask.codes` gives those of its pixels."""
    codes = summary.codes
    if summary.kind == "color":
        return codes if colored or not is_grey(codes) else codes & 255
    if summary.kind == "bits":
        codes = codes * bit_value
    if not colored:
        return codes
    if summary.kind == "palette":
        return summary.palette if len(summary.palette) else np.full(len(codes), COLOR)
    return COLOR + codes.clip(0, 255) * 0x010101


def totals_of(
    summaries: Sequence[MaskSummary], classes: ClassList | None, values: Sequence[int], findings: Findings
) -> Totals:
    """Add up the values of masks, and decide whether palette indices or colours count.

    Args:
        summaries: Values of each mask.
        classes: Classes as a file names them.
        values: Codes of a network's classes, if it has its own.
        findings: Takes a remark if palettes are read by their colours.
    """
    colored = any(one.colored for one in summaries) or any(value >= COLOR for value in values)
    if not colored and (reason := _palette_reason(summaries, classes)):
        colored = True
        findings.remark(f"masks with a palette are read by their colours, not by their indices: {reason}")
    grey = {int(code) for one in summaries if one.kind != "bits" for code in codes_in(one, False, 1)}
    bit_value = 255 if grey <= {0, 255} else 1
    pixels: dict[int, int] = {}
    lossy: dict[int, int] = {}
    for one in summaries:
        total = lossy if one.lossy else pixels
        for code, count in zip(codes_in(one, colored, bit_value).tolist(), one.counts.tolist(), strict=True):
            total[code] = total.get(code, 0) + count
    if lossy and not colored:
        lossy = _peaks(lossy, pixels)
    for code, count in lossy.items():
        pixels[code] = pixels.get(code, 0) + count
    return Totals(dict(sorted(pixels.items())), colored, bit_value)


def _palette_reason(summaries: Sequence[MaskSummary], classes: ClassList | None) -> str:
    """Why masks with a palette are read by their colours; empty if by their indices."""
    colors: dict[int, set[int]] = {}
    for one in summaries:
        for code, color in zip(one.codes.tolist(), one.palette.tolist(), strict=False):
            colors.setdefault(code, set()).add(color)
    used = set().union(*colors.values()) if colors else set()
    if classes is not None and classes.is_table and used:
        known = {*classes.color_codes, VOC_BORDER, COLOR}
        indices = set(range(len(classes.names))) | {255}
        if used <= known:
            ordered = all(colors[code] <= {classes.color_codes[code]} for code in colors if code in indices - {255})
            return "" if ordered and set(colors) <= indices else f"all are in {classes.path.name}"
    if any(len(found) > 1 for found in colors.values()) and len(used) <= len(colors):
        return "the same index has different colours in different files"
    return ""


def _peaks(lossy: Mapping[int, int], exact: Mapping[int, int]) -> dict[int, int]:
    """The values that lossy masks had before they were compressed: exact ones, and peaks of the histogram."""
    histogram = np.zeros(256)
    for code, count in lossy.items():
        histogram[min(max(code, 0), 255)] += count
    total, found = histogram.sum(), dict.fromkeys((code for code in exact if 0 <= code <= 255), 0)
    if max(lossy) < 2 * _PEAK_WIDTH:  # class numbers: what was there cannot be distinguished from noise
        return dict(lossy)
    for value in histogram.argsort(kind="stable")[::-1].tolist():
        near = histogram[max(value - _PEAK_WIDTH, 0) : value + _PEAK_WIDTH + 1].sum()
        is_peak = near > _PEAK_SHARE * total and histogram[value] > near / 8
        if is_peak and all(abs(value - one) > 2 * _PEAK_WIDTH for one in found):
            found[value] = 0
    if 255 not in found and 239 <= max(found, default=0) < 255:
        found = {255 if value == max(found) else value: 0 for value in found}
    return found or dict(lossy)


def encoding(codes: Sequence[int], totals: Totals, reduce_zero_label: bool) -> MaskEncoding:
    """The encoding with these codes of the classes; the usual ignored ones are ignored by intention."""
    ignored = [code for code in totals.present if code < 0]
    ignored += [VOC_BORDER] if totals.colored else list(VOID)
    ignored += [COLOR if totals.colored else 0] if reduce_zero_label else []
    ignored = [code for code in ignored if code not in codes]
    return MaskEncoding(tuple(codes), tuple(ignored), totals.colored, totals.bit_value)


def shown(code: int) -> str:
    """A value as a number, a colour as #rrggbb."""
    return f"#{code - COLOR:06x}" if code >= COLOR else str(code)


def label_picture(classes: npt.NDArray[np.int64], values: Sequence[int], count: int, reduce_zero_label: bool) -> Values:
    """A mask in a data set's own values or colours.

    Args:
        classes: (H, W), the class of each pixel.
        values: Code of each class; empty if they are numbered.
        count: Number of classes.
        reduce_zero_label: Whether the numbers start at 1.

    Returns:
        (H, W), or (H, W, 3) in colours.
    """
    table = np.array(values or range(reduce_zero_label, count + reduce_zero_label), np.int64).clip(min=0)
    codes: Values = table[classes]
    if table.max(initial=0) >= COLOR:
        return np.stack([codes >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    return codes.astype(np.uint8 if table.max(initial=0) < 256 else np.uint16)
