"""Image files of more bits or bands than Pillow reads: TIFF of any, PNG of 16 bits in colour."""

from __future__ import annotations

import io
import logging
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from transxnet.data.images.metadata import TRANSPOSITIONS, significant_bits, with_tags
from transxnet.data.images.pixel_values import Array, ValueRange, from_array, is_deep
from transxnet.extras import require

for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # they raise what they would print

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # also BigTIFF
_MAX_BYTES = 2**31  # of an array
_MAX_BANDS = 4096
_PNG_HEADER = 2**16  # bytes, in which the significant bits are stated
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_LZW = 5
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def require_tifffile() -> None:
    """Raise MissingExtraError if there is no tifffile."""
    require("a TIFF file of such values or bands", "train", "tifffile")


def is_tiff(file: BinaryIO) -> bool:
    """Whether a file begins as a TIFF file; its position is set to the beginning."""
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    return start in _TIFF


def read_tiff(file: BinaryIO, max_pixels: int) -> tuple[Image.Image, Image.Transpose | None]:
    """Read the first image of a TIFF file of any depth and number of bands.

    Args:
        file: The file.
        max_pixels: Maximum number of pixels.

    Returns:
        The image as RGB, with all its bands, and the transposition for its orientation.

    Raises:
        ValueError: If it is larger or has no such layout; tifffile raises other errors for damaged files.
    """
    require_tifffile()
    import tifffile

    file.seek(0)
    content = file.read()
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:  # it wants files to have a name
        page: Any = tiff.pages[0]
        shape, axes = tuple(page.shape), page.axes
        if axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"a TIFF image of the axes {axes} is not a picture")
        height, width = shape[axes.index("Y")], shape[axes.index("X")]
        bands = shape[axes.index("S")] if "S" in axes else 1
        if not 0 < height * width <= max_pixels or not 0 < bands <= _MAX_BANDS or page.nbytes > _MAX_BYTES:
            raise ValueError(f"{width} x {height} pixels of {bands} bands are too many")
        if int(page.compression) == _LZW and axes != "SYX":
            values = _interleaved(content, page, bands).reshape(height, width, bands)
        else:
            values = page.asarray(maxworkers=1)
            values = np.moveaxis(values, 0, 2) if axes == "SYX" else values.reshape(height, width, bands)
        extra = next(iter(page.extrasamples), 0)
        photometric = int(page.photometric)
        if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise ValueError(f"a TIFF image of such colours ({photometric}) cannot be decoded")
        turn = TRANSPOSITIONS.get(page.tags.valueof(274, 1))
        stated = stated_range(page.tags.valueof, page.bitspersample)
    colours = 3 if photometric == _RGB and bands >= 3 else 1
    alpha = bands > colours and extra in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)
    inverted = photometric == _WHITE_IS_ZERO
    if values.dtype.kind not in "uifb":
        raise ValueError(f"values of the type {values.dtype} are not pixels")
    values = values.astype(np.uint8) * np.uint8(255) if values.dtype.kind == "b" else values
    return from_array(values, colours, alpha=alpha, stated=stated, inverted=inverted), turn


def _interleaved(content: bytes, page: Any, bands: int) -> Array:
    """The values of a file that tifffile cannot decompress: libtiff does, of the bands side by side as one."""
    bits, predictor, form = page.bitspersample, int(page.predictor), int(page.sampleformat)
    if predictor not in (1, 2) or (predictor == 2 and form != 1):
        raise ValueError("its compression is not supported for such values; store it without, or with deflate")
    changed = {256: page.imagewidth * bands, 258: bits, 262: _BLACK_IS_ZERO, 277: 1, 317: 1, 339: form}
    if page.is_tiled:
        changed[322] = page.tilewidth * bands
    with Image.open(io.BytesIO(with_tags(content, changed, without=(274, 284, 338))), formats=("TIFF",)) as image:
        values: Array = np.array(image)
    if values.dtype.itemsize * 8 != bits:
        raise ValueError("its compression is not supported for such values; store it without, or with deflate")
    values = values.reshape(page.imagelength, page.imagewidth, bands)
    step = page.tilewidth if page.is_tiled else page.imagewidth
    for left in range(0, page.imagewidth if predictor == 2 else 0, step):  # differences of neighbours
        part = values[:, left : left + step]
        np.cumsum(part, axis=1, dtype=values.dtype, out=part)
    return values


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an opened image has 16 bits in colour, of which Pillow drops the lower half when it loads it."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def is_dim(image: Image.Image, stated: ValueRange | None) -> bool:
    """Whether the upper halves of an image's values leave most of its range to the lower ones."""
    colours = image.split()[: 1 if image.mode == "LA" else 3]
    brightest = max(float(band.getextrema()[1]) for band in colours)  # type: ignore[arg-type]
    return brightest <= max(15, (stated.high if stated is not None else 0) // 256) < 255


def read_deep_colours(image: Image.Image, file: BinaryIO, stated: ValueRange | None, max_pixels: int) -> Image.Image:
    """A PNG or TIFF file of 16 bits in colour as RGB, with its values scaled by their range."""
    if image.format == "TIFF":
        return read_tiff(file, max_pixels)[0]
    from torchvision.io import ImageReadMode, decode_png

    file.seek(0)
    values = decode_png(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    array: Array = values.permute(1, 2, 0).contiguous().numpy()
    count = array.shape[2]
    return from_array(array, 1 if count < 3 else 3, alpha=count in (2, 4), stated=stated)


def values_stated(image: Image.Image, file: BinaryIO) -> ValueRange | None:
    """The range of an opened image's values by its metadata, for values of more than 8 bits."""
    if not is_deep(image) and not has_deep_colours(image):
        return None
    if image.format == "PPM":  # Pillow scales by the file's largest value
        return ValueRange(0, 65535) if image.mode == "I" else None
    if image.format == "PNG":
        file.seek(0)
        bits = significant_bits(file.read(_PNG_HEADER))
        return ValueRange(0, 2**bits - 1) if bits else None
    if image.format == "TIFF":
        with suppress(Exception):  # damaged tags
            tags = image.tag_v2  # type: ignore[attr-defined]
            return stated_range(tags.get, max(tags.get(258, (16,))))
    return None


def stated_range(value_of: Any, bits: int | None) -> ValueRange | None:
    """The range of the values that TIFF tags state, or fewer than 16 bits; None if there are none.

    Args:
        value_of: Returns the value of a tag by its number, else None.
        bits: Bits of a value; None if they differ.
    """
    low, high = (_number(value_of(number)) for number in (340, 341))  # SMinSampleValue, SMaxSampleValue
    if high is None:
        low, high = (_number(value_of(number)) for number in (280, 281))  # MinSampleValue, MaxSampleValue
    if high is not None:
        return ValueRange(low or 0, high)
    return ValueRange(0, 2**bits - 1) if bits and 8 < bits < 16 else None


def _number(value: Any) -> float | None:
    """A tag's value, the largest of several; None if it is no number."""
    try:
        largest = float(np.max(np.asarray(value, dtype=np.float64)))  # NaN for None
    except (TypeError, ValueError):
        return None
    return largest if np.isfinite(largest) else None
