"""Reading one image the way a person sees it, or saying what is wrong with it."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.utils.misc import natural_key

from transxnet.errors import DataError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 180_000_000
"""Images with more pixels are refused before they are decoded."""

_WHITE = (255, 255, 255, 255)


class BadImageError(DataError):
    """An image that cannot be used.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # survives the way back from a worker process


def read_image(path: str | os.PathLike[str], *, rotate: bool = True) -> Image.Image:
    """An image file as RGB.

    Transparency lies on white, 16-bit grey is scaled to 8, and of an animation the first frame is
    taken.

    Args:
        path: The file.
        rotate: Whether to turn the image as the camera was held; otherwise it is as stored.

    Raises:
        BadImageError: If the file is missing, empty, damaged, no image, or has more than
            :data:`MAX_PIXELS` pixels.
    """
    name = os.fspath(path)
    if not os.path.exists(name):  # noqa: PTH110 (also false for a broken link)
        raise BadImageError(name, "broken link" if Path(name).is_symlink() else "no such file")
    try:
        size = Path(name).stat().st_size
    except OSError as error:
        raise BadImageError(name, f"cannot be read ({error.strerror})") from error
    return _decoded(name, name, size, rotate)


def read_annotated(path: str | os.PathLike[str], size: tuple[int, int], what: str) -> Image.Image:
    """An image file as RGB, at the size that its annotations were made for.

    Annotations refer to the pixels as stored; where only the image turned as the camera was held
    has their size, they were made for that.

    Args:
        path: The file.
        size: Height and width.
        what: What says so, for a message.

    Raises:
        BadImageError: As :func:`read_image`, and if the image has another size.
    """
    image = read_image(path, rotate=False)
    height, width = size
    if image.size == (height, width) != (width, height):
        image = read_image(path)
    if image.size != (width, height):
        raise BadImageError(os.fspath(path), f"{image.width} x {image.height} pixels, but {what} {width} x {height}")
    return image


def decode_image(name: str, content: bytes) -> Image.Image:
    """The bytes of an image file as RGB, seen as :func:`read_image` sees the file.

    Args:
        name: What to call the image in an error.
        content: All bytes of the file.

    Raises:
        BadImageError: As :func:`read_image`.
    """
    return _decoded(name, io.BytesIO(content), len(content), rotate=True)


def _decoded(name: str, file: str | io.BytesIO, size: int, rotate: bool) -> Image.Image:
    if size == 0:
        raise BadImageError(name, "empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit warns below ours, and of odd metadata
            with Image.open(file) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(name, f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
                return _as_seen(ImageOps.exif_transpose(image) if rotate else image)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(name, "not an image, whatever its name says") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(name, f"more than {MAX_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise BadImageError(name, f"damaged ({error})") from error


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        deep = image.mode != "F" and (image.mode != "I" or values.max(initial=0) > 255)
        image = Image.fromarray(np.clip(values / 257 if deep else values, 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return image.convert("RGB")


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder, in natural order (2 before 10); hidden ones are left out."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [Path(root, name) for name in files if is_image_name(name) and not _hidden(name)]
    return sorted(found, key=lambda path: natural_key(str(path)))


def expand(patterns: Iterable[str]) -> list[Path]:
    """The images that files, folders and glob patterns name, each once, in the order given.

    Raises:
        DataError: If a pattern matches nothing, or a folder holds no image.
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = find_images(path)
            if not found:
                raise DataError(f"{path} holds no image ({', '.join(sorted(EXTENSIONS))})")
        elif path.exists() or path.is_symlink() or not glob.has_magic(pattern):
            found = [path]  # a missing file is reported with the others that cannot be read
        else:
            names = sorted(glob.glob(str(path), recursive=True), key=natural_key)  # noqa: PTH207 (absolute ones too)
            found = [Path(name) for name in names if Path(name).is_file()]
            if not found:
                raise DataError(f"nothing matches {pattern}")
        paths.update(dict.fromkeys(found))
    return list(paths)


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def _hidden(name: str) -> bool:
    return name.startswith((".", "__"))
