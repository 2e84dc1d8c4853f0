"""The parts of a data set, one to learn from and one to judge by, told apart by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transxnet.data.names import Key, entries_of, is_folder, natural_key

TRAIN, VALIDATION = ("train", "training"), ("val", "validation", "valid", "test")
"""What the parts may be called; of several names for one part, the first that is there is used."""


def part_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of a part."""
    return next((root / name for name in names if is_folder(root / name)), None)


def part_files(root: Path, suffix: str) -> dict[str, list[Path]]:
    """The files of "train" and of "val", where a data set is files of many images each.

    They lie in the folder itself, in ``data/`` (as the Hugging Face Hub has them), or in a folder for
    each part. A word of a file's name tells the part; a name without such a word is "train". Folders
    that hold folders are class folders, not this.
    """
    for folder in (root, root / "data"):
        files = _files(folder, suffix)
        if files:
            named = {name: [path for path in files if part_word(path) == name] for name in (*TRAIN, *VALIDATION)}
            learned = named["train"] + named["training"] + [path for path in files if part_word(path) is None]
            judged = next((named[name] for name in VALIDATION if named[name]), [])
            parts = {"train": sorted(learned, key=_order), "val": judged}
            break
    else:
        folders = {"train": part_folder(root, TRAIN), "val": part_folder(root, VALIDATION)}
        parts = {name: _files(folder, suffix) if folder else [] for name, folder in folders.items()}
    return {name: files for name, files in parts.items() if files}


def _files(folder: Path, suffix: str) -> list[Path]:
    if not is_folder(folder):
        return []
    visible = [path for path in entries_of(folder) if not path.name.startswith((".", "__"))]
    if any(map(is_folder, visible)):
        return []
    return sorted((path for path in visible if path.suffix == suffix), key=_order)


def part_word(path: Path) -> str | None:
    """The word of a file's name that tells the part, one of :data:`TRAIN` or :data:`VALIDATION`."""
    words = re.split("[^a-z]+", path.stem.lower())
    return next((word for word in words if word in (*TRAIN, *VALIDATION)), None)


def _order(path: Path) -> Key:
    return natural_key(path.name)
