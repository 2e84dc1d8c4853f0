"""Listing folders: links are followed once, and what is ignored is counted."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transxnet.data.findings import Findings
from transxnet.data.names import SYSTEM_FILES, is_system_folder, listed
from transxnet.errors import DataError
from transxnet.files import reason

_OTHER_IMAGES = frozenset(
    {".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef", ".npy", ".npz"}
    | {".orf", ".pdf", ".psd", ".raw", ".rw2", ".svg", ".xcf"}
)
"""Suffixes of files that hold images, but cannot be read."""

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors for paths that lead to nothing, such as those of broken links."""


@dataclass
class Ignored:
    """Files and folders that were ignored below some folders.

    Attributes:
        suffixes: Number of files of each suffix.
        unreadable_formats: Images of formats that cannot be read.
        hidden: Number of hidden files.
        folders: Names of hidden and system folders.
        broken: Links to nothing.
        repeated: Links to folders that were read already, or that contain the link.
        followed: Links to folders that were followed.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    unreadable_formats: list[Path] = field(default_factory=list)
    hidden: int = 0
    folders: Counter[str] = field(default_factory=Counter)
    broken: list[Path] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    followed: list[Path] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Count a file."""
        suffix = file.suffix.lower()
        if file.name in SYSTEM_FILES:
            return
        if file.is_symlink() and not os.path.exists(file):  # noqa: PTH110 (False for invalid paths)
            self.broken.append(file)
        elif file.name.startswith("."):
            self.hidden += 1
        elif suffix in _OTHER_IMAGES:
            self.unreadable_formats.append(file)
        else:
            self.suffixes[suffix or "without a suffix"] += 1

    def report(self, findings: Findings) -> None:
        """Add everything to the findings of a data set: images that are lost as problems, the rest in one remark."""
        for path in self.unreadable_formats:
            findings.add("images of a format that cannot be read (left out)", str(path))
        for path in self.broken:
            findings.add("broken links (left out)", str(path))
        for path in self.repeated:
            findings.add("links to folders that were read already or contain the link (not followed)", str(path))
        if self.followed:
            findings.remark(f"linked folders are followed: {listed([_link(path) for path in self.followed])}")
        parts = [f"{count:,} {suffix}" for suffix, count in self.suffixes.most_common()]
        parts += [f"{self.hidden:,} hidden"] * bool(self.hidden)
        ignored = [f"files: {listed(parts)}"] * bool(parts)
        ignored += [f"folders: {listed(sorted(self.folders))}"] * bool(self.folders)
        if ignored:
            findings.remark(f"ignored {'; ignored '.join(ignored)}")


@dataclass(frozen=True)
class Listing:
    """Contents of a folder, each sorted by name.

    Attributes:
        folders: Folders.
        links: Links to folders.
        files: All else, broken links among them.
    """

    folders: Sequence[Path]
    links: Sequence[Path]
    files: Sequence[Path]


def list_folder(folder: Path, ignored: Ignored) -> Listing:
    """List a folder, without hidden and system folders, which are counted.

    Raises:
        DataError: If it, or what a link in it points to, cannot be read.
    """
    folders, links, files = list[Path](), list[Path](), list[Path]()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(folder, entry.name)
                target = _target(path) if entry.is_symlink() else ""
                if target == "folder" or entry.is_dir(follow_symlinks=False):
                    if is_system_folder(entry.name):
                        ignored.folders[entry.name] += 1
                    else:
                        (links if target else folders).append(path)
                else:
                    files.append(path)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {reason(error)}") from error
    return Listing(folders, links, files)


def files_below(folder: Path, wanted: Callable[[str], bool], ignored: Ignored | None = None) -> list[Path]:
    """Find files below a folder, in any order, without hidden ones; linked folders are followed, each once.

    Args:
        folder: The folder.
        wanted: Whether a file is wanted, by its name.
        ignored: Counts everything else.

    Raises:
        DataError: If a folder cannot be read.
    """
    ignored = Ignored() if ignored is None else ignored
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        linked = not folders  # after all others, so that a folder that is also linked to keeps its own name
        current = folders.pop() if folders else links.pop(0)
        identity = _identity(current)
        if identity in seen or (linked and leads_back(current)):
            ignored.repeated.append(current)
            continue
        seen.add(identity)
        if linked:
            ignored.followed.append(current)
        listing = list_folder(current, ignored)
        folders += listing.folders
        links += listing.links
        for path in listing.files:
            if wanted(path.name) and not path.name.startswith("."):
                found.append(path)
            else:
                ignored.add(path)
    return found


def leads_back(link: Path) -> bool:
    """Whether a link points to a folder that contains it."""
    return Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))


def is_readable_folder(path: Path) -> bool:
    """Whether a path is a folder.

    Raises:
        DataError: If this user may not know.
    """
    try:
        return _target(path) == "folder"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _target(path: Path) -> str:
    """The kind of what a path leads to: "folder", "file" or "nothing"; raises OSError if it cannot be known."""
    try:
        found = os.stat(path)  # noqa: PTH116 (as os.path.isdir)
    except ValueError:  # an invalid name
        return "nothing"
    except OSError as error:
        if error.errno in _NOTHING:
            return "nothing"
        raise
    return "folder" if stat.S_ISDIR(found.st_mode) else "file"


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {reason(error)}") from error
    return found.st_dev, found.st_ino


def _link(path: Path) -> str:
    return f"{path} -> {os.readlink(path)}"  # noqa: PTH115 (as it is written)
