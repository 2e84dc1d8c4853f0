"""Ids of images and categories in annotation files, for results that are evaluated against them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transxnet.data.names import is_folder, listed
from transxnet.errors import DataError
from transxnet.files import read_json, reading, user_path

_MAX_BYTES = 2**31
_PATTERNS = ("*.json", "annotations/*.json", "*/*.json")  # below a data set's folder


@dataclass
class ImageIds:
    """Ids by the names of images and of categories.

    Attributes:
        source: Where they were read from, for messages.
        categories: Id of each category by its name.
    """

    source: str
    categories: dict[str, int] = field(default_factory=dict)
    _sizes: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    _images: dict[str, list[tuple[tuple[str, ...], Any]]] = field(default_factory=dict)

    def of_images(self, paths: Sequence[Path | str]) -> list[Any]:
        """The id of each image; None for one that is not listed.

        An image is the listed one with the most parts of its path in common, from the file's name on.

        Raises:
            DataError: If none is listed, or two are the same one.
        """
        ids = [self._id_of(path) for path in paths]
        owners: dict[Any, Path | str] = {}
        for path, one in zip(paths, ids, strict=True):
            if one is not None and owners.setdefault(one, path) is not path:
                raise DataError(f"{self.source} lists one image for {owners[one]} and {path}; predict one of them")
        if not owners:
            raise DataError(f"{self.source} lists none of the images, such as {listed([str(one) for one in paths], 1)}")
        return ids

    def size(self, image_id: Any) -> tuple[int, int] | None:
        """Width and height that an image is annotated in; None if the file does not state them."""
        width, height = self._sizes.get(image_id, (None, None))
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    def add(self, content: Any) -> None:
        """Add the images and categories of an annotation file; raises an error for other content."""
        for image in content["images"]:
            parts = _parts(image["file_name"])
            self._sizes[image["id"]] = image.get("width"), image.get("height")
            same = self._images.setdefault(parts[-1], [])
            if (parts, image["id"]) not in same:
                same.append((parts, image["id"]))
        self.categories |= {one["name"]: one["id"] for one in content.get("categories", [])}

    def _id_of(self, path: Path | str) -> Any:
        parts = _parts(str(Path(path).absolute()))
        candidates = [(_common(parts, known), one) for known, one in self._images.get(parts[-1], [])]
        longest = max((count for count, _ in candidates), default=0)
        best = [one for count, one in candidates if count == longest]
        return best[0] if len(best) == 1 else None


def read_image_ids(data: str) -> ImageIds:
    """Read the ids of an annotation file in COCO's format, or of all of them in a data set's folder.

    Raises:
        DataError: If there is none, or one cannot be read.
    """
    path = user_path(data)
    found = ImageIds(str(path))
    if not is_folder(path):
        with reading(path, DataError, "give an annotation file in COCO's format"):
            found.add(read_json(path, _MAX_BYTES))
        return found
    described = False
    for file in sorted({file for pattern in _PATTERNS for file in path.glob(pattern)}):
        with reading(file, DataError):
            content = read_json(file, _MAX_BYTES)
            if isinstance(content, Mapping) and isinstance(content.get("images"), list):
                found.add(content)
                described = True
    if not described:
        raise DataError(f"{path} has no annotation file in COCO's format; give the file")
    return found


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path without regard to case, separators and composed characters."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
    return tuple(part for part in plain.split("/") if part not in ("", "."))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of parts that two paths end with in common."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return count
