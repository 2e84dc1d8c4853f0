"""Checks of output paths: never overwrite an input, and other files only with ``--force``."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transxnet.errors import ConfigError
from transxnet.files import MAX_NAME_BYTES, user_path


def output_file(path: str | os.PathLike[str], *, inputs: Iterable[str | Path] = (), force: bool = False) -> Path:
    """Check the path of an output file before any work is done, and resolve it.

    Links are followed: writing replaces the file that a link points to, not the link.

    Args:
        path: The user's path.
        inputs: Files that are read, which are never overwritten.
        force: Whether an existing file may be replaced.

    Raises:
        ConfigError: If it is an input, exists without ``force``, is not a regular file, or is not writable.
    """
    given = user_path(path)
    target = Path(os.path.realpath(given))
    if is_same_as_any(target, inputs):
        raise ConfigError(f"{given} is an input and would be overwritten: give another name")
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
    if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
        raise ConfigError(f"{given}: the name is too long (at most {MAX_NAME_BYTES} bytes)")
    check_writable(given, target.parent)
    return target


def output_folder(
    path: str | os.PathLike[str],
    *,
    inputs: Iterable[str | Path] = (),
    ours: Callable[[Path], bool] = lambda _: False,
    force: bool = False,
) -> Path:
    """Check the path of an output folder before any work is done, and resolve it.

    Args:
        path: The user's path.
        inputs: Files and folders that are read. The output must not be or lie in one of the folders, where it would
            later be read as data, nor contain an input.
        ours: Whether a non-empty folder may be written to again.
        force: Whether to write to any non-empty folder.

    Raises:
        ConfigError: If it is not empty and neither ours nor forced, lies in or contains an input, is not a folder, or
            is not writable.
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
            f"{given} contains other files: give a new folder, or --force to write there and replace files of the same "
            "names"
        )
    check_writable(given, target)
    return target


def check_apart(out: Path, inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if an output lies in a folder that is read, or contains an input."""
    target = Path(os.path.realpath(out))
    for source in inputs:
        read = Path(os.path.realpath(source))
        if target == read or target.is_relative_to(read):
            raise ConfigError(f"{out} is {source} or lies in it, where it would be read as data: give another folder")
        if read.is_relative_to(target):
            raise ConfigError(f"{source} is an input and lies in {out}: give another folder for the output")


def check_not_inputs(targets: Iterable[Path], inputs: Sequence[str | Path]) -> None:
    """Raise ConfigError if an output file is an input."""
    known = {_identity(path) for path in inputs} - {None}
    for target in targets:
        if _identity(target) in known:
            raise ConfigError(f"{target} is an input and would be overwritten: give another folder")


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


def check_writable(given: Path, folder: Path, advice: str = "; give another name") -> None:
    """Check that a folder can be written to, or made; raises ConfigError that names ``given``.

    A file is created in the nearest existing folder, so that hours of work do not end in an error.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        if len(os.fsencode(folder.name)) > MAX_NAME_BYTES:
            raise ConfigError(f"{given}: the name is too long (at most {MAX_NAME_BYTES} bytes)")
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(given, error, advice) from error


def _unwritable(given: Path, error: OSError, advice: str = "; give another name") -> ConfigError:
    return ConfigError(f"{given} cannot be written: {error.strerror or error}{advice}")
