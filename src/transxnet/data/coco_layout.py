"""Finding the annotation files and images in a folder with COCO annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from transxnet.data.coco_records import ImageRecord
from transxnet.data.names import entries_of, is_file, is_folder
from transxnet.data.splits import TRAIN, VALIDATION, part_folder, part_word
from transxnet.errors import DataError
from transxnet.files import user_path

_SAMPLE = 100  # images looked for in each folder before looking for all


def annotation_files(data: str) -> dict[str, Path]:
    """Find the annotation files of "train" and "val"; a single one is "train" unless named otherwise.

    Raises:
        DataError: If there are none, or several for one part.
    """
    root = user_path(data)
    if not is_folder(root):
        if not os.path.lexists(root):
            raise DataError(f"{root} does not exist; data is a folder of images with COCO annotations")
        return {"val" if part_word(root) in VALIDATION else "train": root}
    found: dict[str, Path] = {}
    for part, names in (("train", TRAIN), ("val", VALIDATION)):
        folder = part_folder(root, names)
        if folder and (path := _single(_json_files(folder), folder)):
            found[part] = path
    return found or _named(root)


def _named(root: Path) -> dict[str, Path]:
    """Annotation files in one folder, assigned to parts by name."""
    folder = next((folder for folder in (root / "annotations", root) if _json_files(folder)), None)
    if folder is None:
        raise DataError(
            f"{root} has no COCO annotations; looked for annotations/*.json, *.json, and train/*.json, val/*.json"
        )
    files = _json_files(folder)
    named: dict[str, Path] = {}
    validation = next((name for name in VALIDATION if any(part_word(path) == name for path in files)), None)
    for part, words in (("train", (*TRAIN, None)), ("val", (validation,) if validation else ())):
        if path := _single([path for path in files if part_word(path) in words], folder):
            named[part] = path
    return named


def _json_files(folder: Path) -> list[Path]:
    """A folder's JSON files; only those of instances if there are any (COCO has captions beside them)."""
    if not is_folder(folder):
        return []
    files = sorted(path for path in entries_of(folder) if path.suffix == ".json" and not path.name.startswith("."))
    return [path for path in files if path.name.startswith("instances")] or files


def _single(files: Sequence[Path], folder: Path) -> Path | None:
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:5])
        raise DataError(f"{folder} has several annotation files for one part: {names}; give the path of one file")
    return files[0] if files else None


def located(path: Path, images: Sequence[ImageRecord], folder: Path | None) -> list[ImageRecord]:
    """Add the images' paths, from the folder that contains most of them.

    Args:
        path: The annotation file.
        images: Its images.
        folder: Their folder; None to search.

    Raises:
        DataError: If no folder contains any of them.
    """
    folders = [folder] if folder else _image_folders(path)
    for step in (max(1, len(images) // _SAMPLE), 1):
        counts = {each: sum(is_file(each / image.file_name) for image in images[::step]) for each in folders}
        best = max(counts, key=lambda each: counts[each])
        if counts[best]:
            return [image._replace(path=str(best / image.file_name)) for image in images]
    looked = ", ".join(map(str, folders))
    raise DataError(
        f"none of the {len(images)} images of {path} exists, such as {images[0].file_name}; looked in {looked}"
    )


def _image_folders(path: Path) -> list[Path]:
    """The existing folders that may contain an annotation file's images, the likeliest first."""
    word = part_word(path)
    own = [token for token in path.stem.split("_") if word and token.lower().startswith(word)]  # train2017
    names = [*own, *(TRAIN if word in TRAIN else VALIDATION if word else ())]
    here = path.parent
    root = here.parent if here.name == "annotations" else here
    folders = [root / middle / name for name in names for middle in ("", "images")]
    folders += [here, here / "images", root / "images", root]
    return [folder for folder in dict.fromkeys(folders) if is_folder(folder)]
