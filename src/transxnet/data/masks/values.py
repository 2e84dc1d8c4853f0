"""Reading mask files of any kind, and counting the values of all masks of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from transxnet.data.images.reading import BadImageError, opened, strips

COLOR = 1 << 24
"""Added to 0xRRGGBB in the code of a colour; the code of a grey value or palette index is the value itself."""

MAX_CODES = 1024
"""Maximum number of different values in a mask; photographs and maps of instances have more."""

Kind = Literal["grey", "bits", "palette", "color"]
Codes = npt.NDArray[np.int64]
Values = npt.NDArray[np.integer[Any]]

_GREY = ("L", "P", "1", "LA", "La", "PA", "I", "I;16", "I;16B", "I;16L", "F")
_COLOR = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
_MAX_THREADS = 8


@dataclass(frozen=True)
class Mask:
    """A mask as it is stored.

    Attributes:
        values: (H, W), uint8 or int32: grey values, 0 or 1 of one bit, palette indices, or codes of colours.
        kind: Which of these.
        palette: (n), codes of the palette's colours; empty for other kinds.
        lossy: Whether the file's format changes values, as JPEG does.
    """

    values: Values
    kind: Kind
    palette: Codes
    lossy: bool

    def codes(self, colored: bool, bit_value: int) -> Values:
        """Codes of the pixels, (H, W).

        Args:
            colored: Whether to take colours, those of the palette and of grey values included.
            bit_value: Value of the set pixels of a mask of one bit.
        """
        if self.kind == "color":
            return self.values if colored or not is_grey(self.values) else (self.values & 255).astype(np.int32)
        values = self.values * np.uint8(bit_value) if self.kind == "bits" else self.values
        if not colored:
            return values
        grey = COLOR + np.arange(256) * 0x010101
        table = self.palette if self.kind == "palette" else grey
        table = np.concatenate([table, np.full(max(256 - len(table), 0), COLOR)]).astype(np.int32)
        coded: Values = table[np.clip(values, 0, 255)]
        return coded


@dataclass(frozen=True)
class MaskSummary:
    """Values of one mask.

    Attributes:
        codes: (n), different codes as stored.
        counts: (n), pixels of each.
        kind: As of :class:`Mask`.
        palette: (n), codes of the colours, for palette indices and grey values; empty for colours.
        lossy: As of :class:`Mask`.
        size: Width and height.
        fault: Why it cannot be used; empty otherwise.
    """

    codes: Codes
    counts: Codes
    kind: Kind = "grey"
    palette: Codes = field(default_factory=lambda: np.empty(0, np.int64))
    lossy: bool = False
    size: tuple[int, int] = (0, 0)
    fault: str = ""

    @property
    def colored(self) -> bool:
        """Whether it has a colour other than grey."""
        return self.kind == "color" and not is_grey(self.codes)


def read_mask(path: Path) -> Mask:
    """Read a mask of any number of bits, grey, with a palette, or in colours.

    Of transparent pixels the colour is black. Values that are not numbers are -1.

    Raises:
        BadImageError: If it cannot be read, or its values are not whole numbers below 2^24.
    """
    with opened(path) as image:
        if image.mode not in (*_GREY, *_COLOR):
            raise BadImageError(str(path), f"a mask must be grey, have a palette or be RGB, not {image.mode}")
        lossy = _is_lossy(image)
        image.load()
        palette = _palette(image)
        small = image.mode in ("L", "P", "1", "LA", "La", "PA")
        values = np.empty((image.height, image.width), np.uint8 if small else np.int32)
        for top, strip in strips(image):
            part = _strip(strip, str(path))
            values[top : top + len(part)] = part
        kind: Kind = "color" if image.mode in _COLOR else "palette" if len(palette) else "grey"
        return Mask(values, "bits" if image.mode == "1" else kind, palette, lossy)


def survey(paths: Sequence[Path], table: Sequence[int] = ()) -> list[MaskSummary]:
    """Count the values of masks, in threads: decoding does not hold the interpreter's lock.

    Args:
        paths: The files.
        table: Codes of the colours that are known, to which those of lossy files are rounded.
    """
    threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
    try:
        return list(threads.map(partial(summarised, table=table), paths))
    finally:
        threads.shutdown(cancel_futures=True)  # on Ctrl-C, thousands are waiting


def summarised(path: Path, table: Sequence[int] = ()) -> MaskSummary:
    """Count the values of a mask; arguments as of :func:`survey`."""
    nothing = np.empty(0, np.int64)
    try:
        quick = _quick_summary(path)
        mask = None if quick else read_mask(path)
    except BadImageError as error:
        return MaskSummary(nothing, nothing, fault=error.reason if error.path == str(path) else str(error))
    if quick:
        return quick
    assert mask is not None
    height, width = mask.values.shape
    codes, counts = _runs(mask.values)
    if mask.lossy and mask.kind == "color" and not is_grey(codes) and len(table):
        codes, counts = _merged(nearest(codes, np.array(table, np.int64)), counts)
    return _summary(codes, counts, mask.kind, mask.palette, mask.lossy, (width, height))


def _quick_summary(path: Path) -> MaskSummary | None:
    """Counts by Pillow, which has them at once for the common kinds of masks; None for others."""
    with opened(path) as image:
        if image.mode not in ("L", "P", "RGB") or _is_lossy(image):
            return None
        image.load()
        if image.mode == "RGB":
            found = image.getcolors(MAX_CODES)
            if found is None:
                return None
            counts, colors = (np.array(list(values), np.int64) for values in zip(*found, strict=True))
            codes = COLOR + (colors[:, 0] << 16) + (colors[:, 1] << 8) + colors[:, 2]
            order = codes.argsort()
            return _summary(codes[order], counts[order], "color", codes[:0], False, image.size)
        totals = np.array(image.histogram(), np.int64)
        codes = np.flatnonzero(totals).astype(np.int64)
        kind: Kind = "palette" if image.mode == "P" else "grey"
        return _summary(codes, totals[codes], kind, _palette(image), False, image.size)


def _summary(
    codes: Codes, counts: Codes, kind: Kind, palette: Codes, lossy: bool, size: tuple[int, int]
) -> MaskSummary:
    fault = ""
    if len(codes) > MAX_CODES:
        fault = f"{len(codes):,} different values, as in a photograph or a map of instances"
        codes, counts = codes[:0], counts[:0]
    used = palette[codes] if kind == "palette" and codes.max(initial=0) < len(palette) else codes[:0]
    return MaskSummary(codes, counts, kind, used, lossy, size, fault)


def nearest(codes: Codes, known: Codes) -> Codes:
    """The nearest known code of each: by the distance of the colours, or of the values."""
    if not len(known):
        return codes
    near = np.abs(_channels(codes)[:, None] - _channels(known)[None]).sum(2)
    found: Codes = known[near.argmin(1)]
    return found


def _channels(codes: Codes) -> Codes:
    """Red, green and blue (n, 3) of colours; a grey value three times."""
    colored = codes >= COLOR
    channels = [np.where(colored, codes >> shift & 255, codes) for shift in (16, 8, 0)]
    return np.stack(channels, 1)


def _merged(codes: Codes, counts: Codes) -> tuple[Codes, Codes]:
    unique, index = np.unique(codes, return_inverse=True)
    return unique, np.bincount(index, counts, len(unique)).astype(np.int64)


def _runs(values: Values) -> tuple[Codes, Codes]:
    """Different values and their counts; masks have long runs, which makes this faster than sorting pixels."""
    flat = values.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return _merged(flat[starts].astype(np.int64), lengths)


def _strip(image: Image.Image, name: str) -> Values:
    """Values of a strip of an image, (H, W)."""
    if image.mode in _COLOR:
        rgba = np.asarray(image.convert("RGBA"), np.int32)
        codes = COLOR + (rgba[..., 0] << 16) + (rgba[..., 1] << 8) + rgba[..., 2]
        return np.where(rgba[..., 3] == 0, COLOR, codes).astype(np.int32)
    values = np.asarray(image)
    if values.ndim == 3:  # with transparency
        values = values[..., 0]
    if values.dtype.kind == "f":
        whole = np.where(np.isfinite(values), values, -1).astype(np.float64)
        if (whole != np.round(whole)).any():
            raise BadImageError(name, "the values of a mask must be whole numbers")
        values = np.clip(whole, -1, COLOR)
    if values.max() >= COLOR:
        raise BadImageError(name, f"the values of a mask must be below {COLOR:,}, not {values.max():,}")
    if values.dtype in (np.bool_, np.uint8):
        return values.astype(np.uint8)
    whole_values: Values = np.maximum(values.astype(np.int64), -1).astype(np.int32)
    return whole_values


def _palette(image: Image.Image) -> Codes:
    if image.mode not in ("P", "PA"):
        return np.empty(0, np.int64)
    colors = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3)
    return COLOR + (colors[:, 0] << 16) + (colors[:, 1] << 8) + colors[:, 2]


def is_grey(codes: Codes | Values) -> bool:
    """Whether all colours are levels of grey."""
    return bool(((codes & 0xFFFFFF) == (codes & 255) * 0x010101).all())


def _is_lossy(image: Image.Image) -> bool:
    """Whether an image's format does not keep its values."""
    if image.format == "TIFF":
        return "jpeg" in str(image.info.get("compression", "")).lower()
    if image.format == "WEBP":
        file = vars(image).get("fp")
        if file is not None:
            file.seek(0)
            return b"VP8L" not in file.read(32)
    return image.format in ("JPEG", "MPO", "AVIF", "JPEG2000")
