"""Pixels of any depth and number of bands as 8-bit RGB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from transxnet.errors import DataError

STRIP = 2**22
"""Pixels that are converted at a time."""

Array = npt.NDArray[Any]

_BANDS = "transxnet_bands"  # in an image's ``info``: the file's bands, where RGB does not show all of them
_WHITE = (255, 255, 255, 255)
_TWELVE_BITS = 4095
_RANGE = "write another range into the files (PNG: sBIT, TIFF: SMinSampleValue and SMaxSampleValue) if this is wrong"
_GUESSED = f"images of 16 bits without a value above 4,095 are read as images of 12 bits; {_RANGE}"
_DARK = f"images of 16 bits without a value above 255 stay nearly black; {_RANGE}"
_STRETCHED = f"images with values above 65,535 are divided by their largest value; {_RANGE}"
_NEGATIVE = f"negative values of images are read as black; {_RANGE}"
_UNNAMED = "where an image with {} bands is shown or read as RGB, the first band is grey: its file states no colours"
_UNNAMED_COLOURS = (
    "where an image with {} bands is shown or read as RGB, the first three are red, green and blue: its file states no "
    "colours"
)


class ImageWarning(UserWarning):
    """How images were read that could be read in several ways: one sentence for all images of a kind."""


@dataclass(frozen=True)
class ValueRange:
    """The values of black and white.

    Attributes:
        low: Black.
        high: White.
    """

    low: float
    high: float

    def levels(self, values: Array, *, inverted: bool = False) -> npt.NDArray[np.uint8]:
        """Values of any type as levels from 0 to 255; NaN is black."""
        known: npt.NDArray[np.float64] = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=self.low)
        levels: npt.NDArray[np.uint8] = (
            np.clip((known - self.low) / ((self.high - self.low) / 255), 0, 255).round().astype(np.uint8)
        )
        return 255 - levels if inverted else levels


def value_range(parts: Iterator[Array], stated: ValueRange | None = None) -> ValueRange:
    """The range of an image's values: what its file states, else the smallest usual one that holds them.

    Warns with :class:`ImageWarning` if the values can mean something else.

    Args:
        parts: The values, in parts.
        stated: The range by the file's metadata; it is ignored if there are values outside it.
    """
    minimum, maximum, kind = np.inf, -np.inf, "u"
    for part in parts:
        finite = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        if finite.size:
            minimum, maximum = min(minimum, float(finite.min())), max(maximum, float(finite.max()))
        kind = "16" if part.dtype.kind in "ui" and part.dtype.itemsize == 2 else part.dtype.kind
    if stated is not None and stated.low < stated.high and stated.low <= minimum and maximum <= stated.high:
        return stated
    if minimum < 0:
        warn(_NEGATIVE)
    if kind == "f" and maximum <= 2:  # from 0 to 1, which interpolation may exceed
        return ValueRange(0, 1)
    if kind == "16" and 0 < maximum <= 255:
        warn(_DARK)
        return ValueRange(0, 65535)
    if kind != "16" and maximum <= 255:
        return ValueRange(0, 255)
    if 255 < maximum <= _TWELVE_BITS:
        warn(_GUESSED)
        return ValueRange(0, _TWELVE_BITS)
    if maximum > 65535:
        warn(_STRETCHED)
    return ValueRange(0, max(maximum, 65535))


def warn(sentence: str) -> None:
    """Warn of how an image is read."""
    warnings.warn(sentence, ImageWarning, stacklevel=2)


@cache
def warn_once(sentence: str) -> None:
    """Warn of how images are read, once in a process: Python's own filter forgets in a context of warnings."""
    warnings.warn(sentence, ImageWarning, stacklevel=2)


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield strips of rows of an image, each with the index of its first row.

    Converting a whole image at once takes several times its memory.
    """
    height = max(1, STRIP // image.width)
    if height >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow keeps an image's values of more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def as_seen(image: Image.Image, stated: ValueRange | None = None, *, inverted: bool = False) -> Image.Image:
    """An image of any of Pillow's modes as RGB, on white where it is transparent.

    Args:
        image: The image.
        stated: The range of its values by the file's metadata, for those of more than 8 bits.
        inverted: Whether small values are white, likewise.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if image.width * image.height > STRIP else image.copy()  # a copy releases the decoder's memory
    scale = value_range((np.asarray(strip) for _, strip in strips(image)), stated) if is_deep(image) else None
    parts = strips(image)
    top, first = next(parts)
    first = _strip_as_seen(first, scale, inverted)
    if first.height == image.height:
        return with_bands(first, image)
    whole = Image.new("RGB", image.size)
    whole.paste(first, (0, top))
    for top, strip in parts:
        whole.paste(_strip_as_seen(strip, scale, inverted), (0, top))
    return with_bands(whole, image)


def _strip_as_seen(image: Image.Image, scale: ValueRange | None, inverted: bool) -> Image.Image:
    if scale is not None:
        image = Image.fromarray(scale.levels(np.asarray(image), inverted=inverted))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return image.convert("RGB")


def from_array(
    values: Array, colours: int, *, alpha: bool = False, stated: ValueRange | None = None, inverted: bool = False
) -> Image.Image:
    """An array of bands as an RGB image, which keeps all bands for :func:`bands_of`.

    Warns with :class:`ImageWarning` if the bands have no stated colours.

    Args:
        values: (H, W, C), of any type; 8-bit integers are levels already.
        colours: Number of the first bands that are colours: 1 for grey, 3 for red, green and blue.
        alpha: Whether the next band is the opacity.
        stated: The range of the values by the file's metadata.
        inverted: Whether small values are white.
    """
    count = values.shape[2]
    if colours == 1 and count > 1 + alpha:
        colours, alpha = (1 if count < 3 else 3), False
        if count != 3:
            warn((_UNNAMED if colours == 1 else _UNNAMED_COLOURS).format(count))
    levels = values
    if values.dtype != np.uint8:
        opacity = colours if alpha else -1
        scale = value_range((values[:, :, band] for band in range(count) if band != opacity), stated)
        scales = [scale if band != opacity else _opacity_range(values[:, :, band], scale) for band in range(count)]
        levels = np.stack([one.levels(values[:, :, band]) for band, one in enumerate(scales)], axis=2)
    if inverted:
        levels[:, :, :colours] = 255 - levels[:, :, :colours]
    bands = [Image.fromarray(np.ascontiguousarray(levels[:, :, band])) for band in range(count)]
    shown = bands[: colours + alpha]
    merged = shown[0] if len(shown) == 1 else Image.merge({2: "LA", 3: "RGB", 4: "RGBA"}[len(shown)], shown)
    seen = as_seen(merged)
    if count not in (1, 3):
        seen.info[_BANDS] = bands
    return seen


def _opacity_range(values: Array, colours: ValueRange) -> ValueRange:
    """The range of the opacity: that of the colours, unless it exceeds them."""
    return colours if values.max() <= colours.high else ValueRange(0, np.iinfo(values.dtype).max)


def with_bands(seen: Image.Image, image: Image.Image) -> Image.Image:
    """An RGB image that keeps the bands of the image that it was made from, if these are two or more than three."""
    if image.mode in ("RGBA", "CMYK", "LA"):
        seen.info[_BANDS] = image
    return seen


def transposed(seen: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """An image and the bands that it keeps, transposed."""
    if turn is None:
        return seen
    turned = seen.transpose(turn)
    if _BANDS in seen.info:
        turned.info[_BANDS] = [band.transpose(turn) for band in _stored_bands(seen)]
    return turned


def bands_of(image: Image.Image, count: int) -> Sequence[Image.Image]:
    """An image's bands for a network of so many channels: grey for one, red, green and blue for three.

    Args:
        image: RGB, as of :func:`as_seen`.
        count: Number of channels.

    Raises:
        DataError: If the image has another number of bands.
    """
    if fault := bands_fault(image, count):
        raise DataError(f"an image cannot be used: {fault}")
    if count == 1:
        return [image.convert("L")]
    return image.split() if count == 3 else _stored_bands(image)


def bands_fault(image: Image.Image, count: int) -> str:
    """Why :func:`bands_of` cannot be used; empty if it can."""
    stored = image.info.get(_BANDS, image)
    found = len(stored.getbands() if isinstance(stored, Image.Image) else stored)
    return "" if count in (1, 3, found) else f"it has {found} bands, but the network takes {count}"


def _stored_bands(image: Image.Image) -> Sequence[Image.Image]:
    stored = image.info.get(_BANDS, image)
    return stored.split() if isinstance(stored, Image.Image) else stored
