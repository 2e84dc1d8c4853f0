"""Finding the image files that annotations name, whatever machine and tool the names are from."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from transxnet.data.coco.orientation import Turn, turned_size
from transxnet.data.findings import Findings
from transxnet.data.images.metadata import transposition
from transxnet.data.images.reading import BadImageError, is_image_name, opened
from transxnet.data.splits import TRAIN, VALIDATION
from transxnet.errors import DataError
from transxnet.files import reason
from transxnet.text import counted

_SAMPLE = 100  # images by which folders are ranked
_MAX_INDEXED = 2_000_000  # image files below a folder
_UPLOAD = re.compile(r"^[0-9a-f]{6,36}[-_](?=.)")  # that Label Studio and others put before a file's name


class Header(NamedTuple):
    """Size and orientation of an image file.

    Attributes:
        height: Height in pixels as stored.
        width: Width in pixels as stored.
        turn: Transposition that brings it upright; None if it is.
    """

    height: int
    width: int
    turn: Turn | None

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        size = self.height, self.width
        return size if self.turn is None else turned_size(size, self.turn)


def header(path: str) -> Header | None:
    """Size and orientation of an image file; None if it cannot be read."""
    try:
        with opened(path) as image:
            return Header(image.height, image.width, transposition(image))
    except BadImageError:
        return None


class Found(NamedTuple):
    """Image files.

    Attributes:
        paths: The path of each name; of a missing file, the path in the likeliest folder.
        missing: Indices of the names without a file, or that fit several.
    """

    paths: list[str]
    missing: set[int]


class ImageFinder:
    """Finds image files by the names in an annotation file.

    A name is looked for as it is in each folder, then the ends of its path, then its file name anywhere below
    the root: with slashes for backslashes, without the prefix of an upload, in any case and composition of
    Unicode, if just one file fits.

    Args:
        path: The annotation file, for messages.
        folders: Folders that may contain the images, the likeliest first.
        root: The folder that is searched otherwise.
        part: "train" or "val" if the file is for one: files of the other one do not fit.
    """

    def __init__(self, path: Path, folders: Sequence[Path], root: Path, part: str | None = None) -> None:
        self.path = path
        self.folders = [str(folder) for folder in folders]
        self.root = root
        self._others = {"train": VALIDATION, "val": TRAIN}.get(part or "", ())
        self._listed: dict[str, frozenset[str]] = {}
        self._below: dict[str, list[str]] | None = None
        self._closed: list[OSError] = []  # of folders below the root that this user may not list

    def __call__(self, names: Sequence[str], findings: Findings) -> Found:
        """Find the path of each name.

        Args:
            names: Names or paths of image files.
            findings: Receives a remark on files that were found by another name.

        Raises:
            DataError: If none exists, or one is not found and a folder that may hold it cannot be read.
        """
        folders = self._ranked(names[:: max(1, len(names) // _SAMPLE)])
        found = [self._exact([name], folders) for name in names]
        similar = {i: self._similar(names[i], folders) for i, path in enumerate(found) if path is None}
        uses = Counter([*filter(None, found), *filter(None, similar.values())])
        for index, path in similar.items():
            if path is not None and uses[path] == 1:
                found[index] = path
        if several := [path for path, count in Counter(filter(None, found)).items() if count > 1]:
            findings.remark(f"{len(several):,} files are named by several image records, such as {several[0]}")
        missing = {index for index, path in enumerate(found) if path is None}
        if missing and self._closed:
            error = self._closed[0]
            raise DataError(
                f"{error.filename} cannot be read: {reason(error)}; it may hold the "
                f"{counted(len(missing), 'image')} of {self.path} that cannot be found elsewhere"
            )
        if len(missing) == len(names):
            looked = ", ".join(self.folders)
            raise DataError(
                f"none of the {len(names)} images of {self.path} exists, such as {names[0]}; looked in {looked}"
            )
        if renamed := [index for index in similar if found[index] is not None]:
            first = renamed[0]
            findings.remark(
                f"{len(renamed):,} images were found by the end of their path or by another spelling, such as "
                f"{names[first]} as {found[first]}"
            )
        paths = [path or os.path.join(folders[0], name) for name, path in zip(names, found, strict=True)]  # noqa: PTH118
        return Found(paths, missing)

    def _ranked(self, names: Sequence[str]) -> list[str]:
        """The folders, those that contain more of the names first."""
        counts = {folder: sum(self._exact([name], [folder]) is not None for name in names) for folder in self.folders}
        return sorted(self.folders, key=lambda folder: -counts[folder])

    def _exact(self, names: Sequence[str], folders: Sequence[str]) -> str | None:
        """The first of the names that exists in a folder, longer names first."""
        for name in names:
            for folder in folders:
                path = os.path.join(folder, name)  # noqa: PTH118 (faster for millions of names)
                parent, base = os.path.split(path)
                if base in self._entries(parent):
                    return path
        return None

    def _similar(self, name: str, folders: Sequence[str]) -> str | None:
        for spelling in _spellings(name):
            if path := self._exact(list(_ends(spelling)), folders):
                return path
        for spelling in _spellings(name):
            if path := self._anywhere(spelling):
                return path
        return None

    def _anywhere(self, name: str) -> str | None:
        """The only file below the root that a path may mean."""
        if self._below is None:
            self._below = self._index()
        parts = [_key(part) for part in name.split("/")]
        base = _UPLOAD.sub("", parts[-1])
        for key in dict.fromkeys((parts[-1], base, f"-{base}")):
            paths = self._below.get(key, [])
            for test in (_same_end(parts[-2:]), _same_spelling(name), lambda path: True):
                fitting = [path for path in paths if test(path)]
                if len(fitting) == 1:
                    return fitting[0]
        return None

    def _index(self) -> dict[str, list[str]]:
        """The image files below the root by their key; "-" and the rest of the name for those with a prefix."""
        found: dict[str, list[str]] = defaultdict(list)
        count, seen = 0, set()
        for folder, folders, files in os.walk(self.root, onerror=self._note, followlinks=True):
            real = os.path.realpath(folder)
            folders[:] = [] if real in seen else [each for each in folders if not self._foreign(each)]
            seen.add(real)
            for name in files:
                if is_image_name(name):
                    key, path, count = _key(name), os.path.join(folder, name), count + 1  # noqa: PTH118
                    found[key].append(path)
                    if (base := _UPLOAD.sub("", key)) != key:
                        found[f"-{base}"].append(path)
            if count > _MAX_INDEXED:
                break
        return found

    def _foreign(self, folder: str) -> bool:
        return folder.startswith(".") or any(re.split("[^a-z]", folder.lower())[0] == word for word in self._others)

    def _entries(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(folder))  # noqa: PTH208 (a name for each of millions)
            except OSError as error:
                self._note(error)
                self._listed[folder] = frozenset()
            except ValueError:  # a name that no file can have
                self._listed[folder] = frozenset()
        return self._listed[folder]

    def _note(self, error: OSError) -> None:
        """Remember a folder that cannot be listed; those of other machines' paths do not matter."""
        if isinstance(error, PermissionError) and Path(error.filename).is_relative_to(self.root):
            self._closed.append(error)


def _spellings(name: str) -> Iterator[str]:
    """The path in a name: with slashes, without a host and a query, and with its escapes decoded."""
    path = name.replace("\\", "/")
    if "?d=" in path:  # Label Studio's local files
        path = path.partition("?d=")[2]
    elif "://" in path:
        path = re.sub("[?#].*", "", path.partition("://")[2])
    yield path
    if (decoded := unquote(path)) != path:
        yield decoded


def _ends(path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        yield end
        for form in ("NFC", "NFD"):
            if (composed := unicodedata.normalize(form, end)) != end:
                yield composed
    if parts and (base := _UPLOAD.sub("", parts[-1])) != parts[-1]:
        yield base


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _same_end(parts: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path ends in the same folder and file."""
    return lambda path: [_key(part) for part in Path(path).parts[-2:]] == list(parts)


def _same_spelling(name: str) -> Callable[[str], bool]:
    """Whether a path has the same file name but for the case of its suffix and its composition."""
    stem = unicodedata.normalize("NFC", Path(name).stem)
    return lambda path: unicodedata.normalize("NFC", Path(path).stem) == stem
