"""Where results may be written: never over an input, and never over a file that is not ours unless asked to."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transxnet.errors import ConfigError
from transxnet.files import user_path

_MAX_NAME = 255  # bytes, of every common file system


def output_file(path: str | os.PathLike[str], *, inputs: Iterable[str | Path] = (), force: bool = False) -> Path:
    """The path of a file to be written, checked before any work is done for it.

    A link is followed, so that what is written replaces the file it points to and not the link.

    Args:
        path: What the user named.
        inputs: Files that are read; none of them is ever written over.
        force: Whether a file that exists may be replaced.

    Raises:
        ConfigError: If it is an input, exists and ``force`` is not given, is no regular file, or cannot be written.
    """
    given = user_path(path)
    target = Path(os.path.realpath(given))
    if is_same_as_any(target, inputs):
        raise ConfigError(f"{given} is an input, which is never written over: give another name")
    try:
        found = target.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(given, error) from error
    else:
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ConfigError(f"{given} is {kind}: give the name of a file")
        if not force:
            raise ConfigError(f"{given} exists: give another name, or --force to replace it")
    if len(os.fsencode(target.name)) > _MAX_NAME:
        raise ConfigError(f"{given}: the name is too long (at most {_MAX_NAME} bytes)")
    _check_writable(given, target.parent)
    return target


def output_folder(
    path: str | os.PathLike[str],
    *,
    inputs: Iterable[str | Path] = (),
    ours: Callable[[Path], bool] = lambda _: False,
    force: bool = False,
) -> Path:
    """The path of a folder to be written to, checked before any work is done for it.

    Args:
        path: What the user named.
        inputs: Files and folders that are read. The output is none of the folders, does not lie in one, where the
            next reading would take it for data, and holds none of them.
        ours: Whether a folder that is not empty is one that may be written to again.
        force: Whether files in a folder that is not ours may be replaced.

    Raises:
        ConfigError: If it is not empty and neither ours nor forced, lies in or around an input, is no folder, or
            cannot be written to.
    """
    given = user_path(path)
    target = Path(os.path.realpath(given))
    check_apart(given, inputs)
    try:
        entries = os.listdir(target)  # noqa: PTH208 (a pathlib iterator raises late)
    except FileNotFoundError:
        entries = []
    except NotADirectoryError as error:
        raise ConfigError(f"{given} is a file, or lies below one: give the name of a folder") from error
    except OSError as error:
        raise _unwritable(given, error) from error
    if entries and not force and not ours(target):
        raise ConfigError(
            f"{given} holds other files: give a new folder, or --force to write there and replace files of the same "
            "names"
        )
    _check_writable(given, target)
    return target


def check_apart(out: Path, inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if an output lies in a folder that is read, or holds something that is read."""
    target = Path(os.path.realpath(out))
    for source in inputs:
        read = Path(os.path.realpath(source))
        if target == read or target.is_relative_to(read):
            raise ConfigError(f"{out} is {source} or lies in it, where it would be taken for data: give another folder")
        if read.is_relative_to(target):
            raise ConfigError(f"{source}, which is read, lies in {out}: give another folder for the output")


def check_not_inputs(targets: Iterable[Path], inputs: Sequence[str | Path]) -> None:
    """Raise ConfigError if a file that would be written is an input."""
    known = {_identity(path) for path in inputs} - {None}
    for target in targets:
        if _identity(target) in known:
            raise ConfigError(f"{target} is an input, which is never written over: give another folder")


def is_same_as_any(target: Path, inputs: Iterable[str | Path]) -> bool:
    """Whether a path is one of the inputs under any name: relative, linked, or hard-linked."""
    found = _identity(target)
    return found is not None and any(_identity(path) == found for path in inputs)


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (a text or a path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _check_writable(given: Path, folder: Path) -> None:
    """Make a file in the nearest folder that exists, so that hours of work do not end in a refusal."""
    while not os.path.lexists(folder) and folder != folder.parent:
        if len(os.fsencode(folder.name)) > _MAX_NAME:
            raise ConfigError(f"{given}: the name is too long (at most {_MAX_NAME} bytes)")
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(given, error) from error


def _unwritable(given: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{given} cannot be written: {error.strerror or error}; give another name")
