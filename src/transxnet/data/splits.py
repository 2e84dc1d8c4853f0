"""Training and validation parts of a data set, by name or by holding out images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transxnet.data.names import Key, entries_of, is_folder, natural_key
from transxnet.data.randomness import seed_for

TRAIN, VALIDATION = ("train", "training"), ("val", "validation", "valid", "test")
"""Names of the parts; of several for one part, the first that exists is used."""

HELD_OUT = 0.2
"""Share of the images that is held out if there is no validation part."""


def held_out(targets: Sequence[int] | npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """Hold out images for validation: a random fifth of each class, but at least one image.

    A class with one image stays in the training set.

    Args:
        targets: (n), the class index of each image; all equal if classes do not matter.
        seed: Seed of the choice.

    Returns:
        (n), whether each image is held out.
    """
    classes = np.asarray(targets)
    generator = np.random.default_rng(seed_for(seed))
    held = np.zeros(len(classes), dtype=bool)
    by_class = np.argsort(classes, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(classes[by_class])) + 1):
        count = max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0
        held[generator.permutation(members)[:count]] = True
    return held


def part_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of a part; None if there is none."""
    return next((root / name for name in names if is_folder(root / name)), None)


def part_files(root: Path, suffix: str) -> dict[str, list[Path]]:
    """Find the files of "train" and "val" in a data set of packed files.

    They are in the folder itself, in ``data/`` (as on the Hugging Face Hub), or in a folder for each
    part. A word in a file's name names the part, "train" by default. Folders that contain folders are
    class folders and ignored.
    """
    for folder in (root, root / "data"):
        files = _files(folder, suffix)
        if files:
            named = {name: [path for path in files if part_word(path) == name] for name in (*TRAIN, *VALIDATION)}
            train = named["train"] + named["training"] + [path for path in files if part_word(path) is None]
            validation = next((named[name] for name in VALIDATION if named[name]), [])
            parts = {"train": sorted(train, key=_order), "val": validation}
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
    """The word in a file's name that names the part, one of :data:`TRAIN` or :data:`VALIDATION`, or None."""
    words = re.split("[^a-z]+", path.stem.lower())
    return next((word for word in words if word in (*TRAIN, *VALIDATION)), None)


def _order(path: Path) -> Key:
    return natural_key(path.name)
