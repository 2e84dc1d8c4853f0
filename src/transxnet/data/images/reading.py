"""Reading images as RGB in their viewing orientation, with clear errors for unusable files."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from transxnet.data.folder_listing import Ignored, files_below
from transxnet.data.images.deep import (
    has_deep_colours,
    is_dim,
    is_tiff,
    read_deep_colours,
    read_tiff,
    require_tifffile,
    values_stated,
)
from transxnet.data.images.metadata import has_too_many_scans, transposition, without_metadata
from transxnet.data.images.pixel_values import ImageWarning, as_seen, is_deep, transposed, warn_once
from transxnet.data.images.pixel_values import strips as strips
from transxnet.data.names import is_folder, natural_key
from transxnet.errors import DataError
from transxnet.extras import MissingExtraError
from transxnet.files import open_regular, reason, user_path

SUFFIXES = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".j2k", ".jp2", ".jpx"),
    "TGA": (".tga",),
}
"""Suffixes of the names of image files, by Pillow's names of their formats."""

FORMATS = tuple(SUFFIXES)
"""Formats that are decoded, for any suffix; some other formats start programs. TGA is last: it has no mark."""

EXTENSIONS = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
"""Suffixes of the names that are taken for images in folders and archives, in any case."""

MAX_PIXELS = 180_000_000
"""Images with more pixels are refused before they are decoded."""

MAX_BYTES = 2 * 2**30
"""Image files with more bytes are refused before they are read."""

_PHOTOMETRIC, _SAMPLES = 262, 277  # TIFF tags
_MAX_JPEG2000_PIXELS = 90_000_000  # OpenJPEG takes over 20 bytes for each
_MAX_RUN_LENGTH_WIDTH = 2**16  # Pillow fills up to 255 rows at once for rows that a BMP file skips


class BadImageError(DataError):
    """An image that cannot be used.

    Attributes:
        path: The file.
        reason: The problem.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # exceptions of workers are pickled


class ImageSizeError(BadImageError):
    """An image with too many pixels, which was not decoded."""


def read_image(path: str | os.PathLike[str], *, rotate: bool = True) -> Image.Image:
    """Read an image file as RGB.

    Transparent pixels are blended with white, values of more than 8 bits are scaled by their range, and of an
    animation the first frame is used. Where the range has to be guessed, an
    :class:`~transxnet.data.images.pixel_values.ImageWarning` says so.

    Args:
        path: The file.
        rotate: Whether to apply the camera's orientation.

    Raises:
        BadImageError: If the file is missing, empty, damaged, not an image, or has more than
            :data:`MAX_PIXELS` pixels.
    """
    name = os.fspath(path)
    with _file(name) as file:
        return _decoded(name, file, rotate)


def read_annotated(path: str | os.PathLike[str], size: tuple[int, int], annotations: str) -> Image.Image:
    """Read an image file as RGB, in the orientation of its annotations.

    Annotations refer to the pixels as stored, unless only the image in the camera's orientation has
    their size.

    Args:
        path: The file.
        size: Height and width of the annotations.
        annotations: Subject and verb of the message for another size, such as "its labels are".

    Raises:
        BadImageError: As for :func:`read_image`, or if the image has another size.
    """
    image = read_image(path, rotate=False)
    height, width = size
    if image.size == (height, width) != (width, height):
        image = read_image(path)
    if image.size != (width, height):
        raise BadImageError(
            os.fspath(path), f"{image.width} x {image.height} pixels, but {annotations} {width} x {height}"
        )
    return image


def decode_image(name: str, content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of an image file as :func:`read_image` does.

    Args:
        name: Name of the image, for messages.
        content: All bytes of the file.
        max_pixels: Maximum number of pixels, if smaller than :data:`MAX_PIXELS`.

    Raises:
        BadImageError: As for :func:`read_image`; an ImageSizeError for one with too many pixels.
    """
    if not content:
        raise BadImageError(name, "empty file (0 bytes)")
    return _decoded(name, io.BytesIO(content), True, min(max_pixels, MAX_PIXELS))


def as_rgb(name: str, image: Image.Image) -> Image.Image:
    """An image that Pillow has opened or made as RGB, turned and converted as :func:`read_image` does with a file.

    Args:
        name: Name of the image, for messages.
        image: The image, of any mode.

    Raises:
        BadImageError: If it is damaged, or has no pixels or more than :data:`MAX_PIXELS`.
    """
    with _naming(name):
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise BadImageError(name, f"{image.width} x {image.height} pixels, not from 1 to {MAX_PIXELS:,}")
        image.load()
        turn = transposition(image)
        return transposed(as_seen(image), turn)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file to inspect its size and mode; its pixels may still be damaged.

    Raises:
        BadImageError: As for :func:`read_image`, and for any exception in the body of the ``with`` statement.
    """
    name = os.fspath(path)
    with _file(name) as file, _naming(name):
        yield _inspected(name, file)


@contextmanager
def _file(name: str) -> Iterator[BinaryIO]:
    try:
        file = open_regular(name)
    except FileNotFoundError as error:
        raise BadImageError(name, "broken link" if Path(name).is_symlink() else "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: invalid characters in the name
        raise BadImageError(name, f"cannot be read ({reason(error)})") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if not 0 < size <= MAX_BYTES:
            raise BadImageError(name, f"more than {MAX_BYTES:,} bytes" if size else "empty file (0 bytes)")
        yield file


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Convert any exception of Pillow and NumPy to BadImageError."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")  # Pillow warns below our limit, and of unusual metadata
            yield
    except BadImageError:
        raise
    except MissingExtraError as error:
        raise BadImageError(name, str(error)) from error
    except UnidentifiedImageError as error:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise BadImageError(name, f"not an image ({formats}), despite its name") from error
    except Image.DecompressionBombError as error:
        raise ImageSizeError(name, f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders can raise anything for damaged bytes
        raise BadImageError(name, f"damaged ({reason(error)})") from error
    for warning in caught:
        if issubclass(warning.category, ImageWarning):
            warn_once(str(warning.message))


def _inspected(name: str, file: BinaryIO) -> Image.Image:
    """The opened image; where Pillow opens it only without its metadata, or not at all, what is read of it."""
    try:
        return _header(name, file)
    except (BadImageError, MissingExtraError):
        raise
    except Exception as error:
        if is_tiff(file) and isinstance(error, UnidentifiedImageError):
            return read_tiff(file, MAX_PIXELS)[0]
        file.seek(0)
        if (pixels := without_metadata(file.read())) is None:
            raise
    return _header(name, io.BytesIO(pixels))


def _header(name: str, file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise ImageSizeError(name, f"{image.width} x {image.height} pixels, more than {max_pixels:,}")
    if image.format == "TIFF":  # Pillow would rotate the image, and read more metadata than needed
        vars(image)["load_end"] = lambda: None
        vars(image)["_size"] = vars(image).get("_tile_size", image.size)  # as stored, not as rotated
    return image


def _decoded(name: str, file: BinaryIO, rotate: bool, max_pixels: int = MAX_PIXELS) -> Image.Image:
    with _naming(name):
        try:
            return _rgb(name, file, rotate, max_pixels)
        except (BadImageError, MissingExtraError):
            raise
        except Exception:  # perhaps only the metadata is damaged
            file.seek(0)
            pixels = without_metadata(file.read())
            if pixels is None:
                raise
        return _rgb(name, io.BytesIO(pixels), rotate, max_pixels)


def _rgb(name: str, file: BinaryIO, rotate: bool, max_pixels: int) -> Image.Image:
    try:
        image = _header(name, file, max_pixels)
    except UnidentifiedImageError:
        if not is_tiff(file):
            raise
        seen, turn = read_tiff(file, max_pixels)
    else:
        _check_decodable(name, image, file)
        seen, turn = _loaded(image, file)
    return transposed(seen, turn) if rotate else seen


def _check_decodable(name: str, image: Image.Image, file: BinaryIO) -> None:
    """Refuse small files that take hours or gigabytes to decode."""
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        if has_too_many_scans(file.read()):
            raise BadImageError(name, "damaged (more scans than a JPEG file needs)")
    elif image.format == "BMP" and image.width > _MAX_RUN_LENGTH_WIDTH and image.info.get("compression") in (1, 2):
        raise BadImageError(name, f"more than {_MAX_RUN_LENGTH_WIDTH:,} pixels wide and run-length encoded")
    elif image.format == "JPEG2000" and image.width * image.height > _MAX_JPEG2000_PIXELS:
        raise BadImageError(name, f"more than {_MAX_JPEG2000_PIXELS:,} pixels in JPEG 2000")


def _loaded(image: Image.Image, file: BinaryIO) -> tuple[Image.Image, Image.Transpose | None]:
    """An opened image as RGB, and the transposition for the camera's orientation."""
    stated = values_stated(image, file)
    deep = has_deep_colours(image)
    if image.format == "TIFF":  # its metadata cannot be read after the pixels
        turn = transposition(image)
        inverted = is_deep(image) and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        if image.tag_v2.get(_SAMPLES, 1) > len(image.getbands()):  # type: ignore[attr-defined]
            require_tifffile()
            with suppress(Exception):  # not every compression is known to tifffile
                return read_tiff(file, MAX_PIXELS)[0], turn
        image.load()
    else:
        image.load()
        turn = transposition(image)
        inverted = False
    if deep and is_dim(image, stated):
        if image.format == "TIFF":
            require_tifffile()
        with suppress(Exception):
            return read_deep_colours(image, file, stated, MAX_PIXELS), turn
    return as_seen(image, stated, inverted=inverted), turn


def find_images(folder: Path, ignored: Ignored | None = None) -> list[Path]:
    """Find all image files below a folder, in natural order (2 before 10), without hidden ones.

    Args:
        folder: The folder.
        ignored: Counts other files.

    Raises:
        DataError: If a folder cannot be read.
    """
    found = files_below(folder, is_image_name, ignored)
    return sorted(found, key=lambda path: natural_key(str(path)))


def expand(patterns: Iterable[str]) -> list[Path]:
    """Expand files, folders and glob patterns to image paths, without repetition, in the given order.

    Raises:
        DataError: If a pattern matches nothing, is a URL or "-", or a folder has no image or cannot be read.
        ConfigError: If a pattern is empty or not a valid path.
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = user_path(pattern)
        if is_folder(path):
            found = find_images(path)
            if not found:
                raise DataError(f"{path} has no image ({', '.join(sorted(EXTENSIONS))})")
        elif not os.path.lexists(path) and (pattern == "-" or "://" in pattern):
            what = "from standard input (-)" if pattern == "-" else f"from the web ({pattern})"
            raise DataError(f"images are not read {what}: save the image, and give the file")
        elif os.path.lexists(path) or not glob.has_magic(pattern):
            found = [path]  # missing files are reported when they are read
        else:
            names = sorted(glob.glob(str(path), recursive=True), key=natural_key)  # noqa: PTH207 (absolute ones too)
            found = [Path(name) for name in names if not is_folder(Path(name))]
            if not found:
                raise DataError(f"nothing matches {pattern}")
        paths.update(dict.fromkeys(found))
    return list(paths)


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122
