"""Training and validation parts of a data set, by name or by holding out images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transxnet.data.findings import Findings
from transxnet.data.folder_listing import is_readable_folder
from transxnet.data.names import Key, entries_of, is_system_folder, natural_key
from transxnet.data.randomness import seed_for

TRAIN, VALIDATION = ("train", "training"), ("val", "validation", "valid", "test", "testing")
"""Names of the parts, in any case; of several for one part, the first that exists is used."""

TEST = ("test", "testing")
"""Names of a part that is used for validation only if there is no other."""

_FOLDER = re.compile(rf"({'|'.join((*TRAIN, *VALIDATION))})(?:[ _-]?(?:set|data|images|split))?")

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


def part_of_folder(name: str) -> str | None:
    """The word for a part in a folder's name, one of :data:`TRAIN` or :data:`VALIDATION`, or None.

    Names are "train", "Test", "VAL", also "training_set" or "test data".
    """
    match = _FOLDER.fullmatch(name.lower())
    return match[1] if match else None


def part_folders(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The folders of a part among others, the one to use first: by its word, then without a capital or a suffix."""
    found = [path for path in folders if part_of_folder(path.name) in names]
    return sorted(found, key=lambda path: _preference(path, names))


def part_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of a part; None if there is none.

    Raises:
        DataError: If the folder around it cannot be read.
    """
    if not is_readable_folder(root):
        return None
    found = [path for path in entries_of(root) if part_of_folder(path.name) in names and is_readable_folder(path)]
    return next(iter(part_folders(found, names)), None)


def _preference(path: Path, names: Sequence[str]) -> tuple[int, bool, str]:
    return names.index(part_of_folder(path.name) or ""), path.name not in names, path.name


def part_files(root: Path, suffix: str, findings: Findings | None = None) -> dict[str, list[Path]]:
    """Find the files of "train" and "val" in a data set of packed files.

    They are in the folder itself, in ``data/`` (as on the Hugging Face Hub), or in a folder for each
    part. A word in a file's name names the part, "train" by default. Folders that contain folders are
    class folders and ignored.

    Args:
        root: The folder.
        suffix: Suffix of the files, in any case.
        findings: Receives remarks on how the parts were chosen.
    """
    findings = Findings() if findings is None else findings
    for folder in (root, root / "data"):
        files = _files(folder, suffix)
        if files:
            named = {name: [path for path in files if part_word(path) == name] for name in (*TRAIN, *VALIDATION)}
            train = named["train"] + named["training"] + [path for path in files if part_word(path) is None]
            present = [name for name in VALIDATION if named[name]]
            parts = {"train": sorted(train, key=_order), "val": named[present[0]] if present else []}
            remark_parts(findings, [(name, f"the part {name}") for name in present], has_train=bool(train))
            break
    else:
        folders = {"train": part_folder(root, TRAIN), "val": part_folder(root, VALIDATION)}
        parts = {name: _files(folder, suffix) if folder else [] for name, folder in folders.items()}
        validation = [path for path in part_folders(_folders(root), VALIDATION) if _files(path, suffix)]
        words = [(str(part_of_folder(path.name)), f"{path.name}/") for path in validation]
        remark_parts(findings, words, has_train=bool(parts["train"]))
    return {name: files for name, files in parts.items() if files}


def remark_parts(findings: Findings, validation: Sequence[tuple[str, str]], *, has_train: bool) -> None:
    """Remark which of several validation parts is used, and that a test part is.

    Args:
        findings: Receives the remarks.
        validation: For each validation part its word and its name for people, the one that is used first.
        has_train: Whether there are training images.
    """
    if not validation:
        return
    (word, used), *others = validation
    if has_train and word in TEST:
        findings.remark(
            f"{used} is the validation part, since there is no val/; without it, a fifth of the training images would "
            "be held out"
        )
    for _, name in others:
        findings.remark(f"{name} is not used: {used} is the validation part")


def _folders(root: Path) -> list[Path]:
    return [path for path in entries_of(root) if is_readable_folder(path)] if is_readable_folder(root) else []


def _files(folder: Path, suffix: str) -> list[Path]:
    if not is_readable_folder(folder):
        return []
    visible = [path for path in entries_of(folder) if not is_system_folder(path.name)]
    if any(map(is_readable_folder, visible)):
        return []
    return sorted((path for path in visible if path.suffix.lower() == suffix), key=_order)


def part_word(path: Path) -> str | None:
    """The word in a file's name that names the part, one of :data:`TRAIN` or :data:`VALIDATION`, or None."""
    words = re.split("[^a-z]+", path.stem.lower())
    return next((word for word in words if word in (*TRAIN, *VALIDATION)), None)


def _order(path: Path) -> Key:
    return natural_key(path.name)
