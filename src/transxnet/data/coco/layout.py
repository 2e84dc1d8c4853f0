"""Finding annotations of objects in a data folder: COCO's layout, and those that annotation tools export."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from transxnet.data.coco.other_formats import COCO, COCO_NAME, ForeignAnnotations, foreign_annotations, format_of
from transxnet.data.masks.layout import holds_masks
from transxnet.data.names import entries_of, is_folder
from transxnet.data.splits import TRAIN, VALIDATION, part_word
from transxnet.errors import DataError
from transxnet.files import user_path

Part = Literal["train", "val"]
Contents = Literal["objects", "pixels"]

ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "anns")
"""Folders of annotation files, in any case; images are looked for from the folder above."""

_PIXEL_FOLDERS = ("annotations", "SegmentationClass", "SegmentationClassRaw")
_WORDS = re.compile(r"^_?(instances|annotations)?[._ -]*|[._ -]*(coco|annotations|instances)$", re.IGNORECASE)
_LISTED = 200  # subfolders, or files of a folder, that are looked at
_PLAIN_FOLDERS = {"images", "img", "imgs", "jpegimages", "data", "ann", "masks", "segmentationclass", "imagesets"}


@dataclass(frozen=True)
class Subset:
    """The images of one annotation file.

    Attributes:
        name: Its name in the layout, such as "train2017" or "default".
        path: The annotation file.
        part: The part that its name says; None if it says neither.
    """

    name: str
    path: Path
    part: Part | None


@dataclass(frozen=True)
class CocoLayout:
    """Annotation files of a folder in COCO's format.

    Attributes:
        name: The layout, for people.
        root: The folder that images are looked for in.
        train: Subsets to train on.
        val: Subsets to validate on; if empty, a fifth of the training images is held out.
        unused: Subsets that are neither.
    """

    name: str
    root: Path
    train: tuple[Subset, ...]
    val: tuple[Subset, ...]
    unused: tuple[Subset, ...] = ()


def coco_layout(data: str) -> CocoLayout:
    """The annotation files of a folder, or the one that ``data`` names.

    Raises:
        DataError: If there are none in COCO's format; annotations in another format are named.
    """
    root = user_path(data)
    if not is_folder(root):
        if not os.path.lexists(root):
            raise DataError(f"{root} does not exist; data is a folder of images with COCO annotations")
        kind = format_of(root)
        if isinstance(kind, ForeignAnnotations):
            raise DataError(f"{root} {kind.refusal}")
        above, subset = lone_subset(root)
        return _of_subsets(above, [subset], "a COCO file")
    if layout := find_layout(root):
        return layout
    if other := unread_annotations(root):
        raise DataError(f"{root} has no COCO annotations: {other}")
    if layout := _found(root, loose=True):
        return layout
    raise DataError(
        f"{root} has no COCO annotations; looked for annotations/*.json, *.json, and train/*.json, val/*.json"
    )


def find_layout(root: Path) -> CocoLayout | None:
    """The layout of a folder with COCO annotations; None for other folders.

    Raises:
        DataError: If a folder cannot be listed.
    """
    return _found(root, loose=False) if is_folder(root) else None


def unread_annotations(root: Path) -> str | None:
    """A sentence on annotated objects in a format that is not read; None if there are none, or some that are."""
    if not is_folder(root) or find_layout(root):
        return None
    found = foreign_annotations(root)
    return f"{found[0]} {found[1].refusal}" if found else None


def contents_of(data: str) -> tuple[Contents, ...]:
    """Kinds of annotations in a data folder, in any format: objects, classes of pixels, or both; empty without any."""
    root = user_path(data)
    if root.suffix.lower() == ".json":
        return ("objects",)
    if not is_folder(root):
        return ()
    objects = find_layout(root) is not None or foreign_annotations(root) is not None
    folders = [root / name for name in _PIXEL_FOLDERS if os.path.lexists(root / name)]
    found: dict[Contents, bool] = {"objects": objects, "pixels": holds_masks(root) or bool(folders and not objects)}
    return tuple(kind for kind, there in found.items() if there)


def refuse_annotated(root: Path, class_folders: Sequence[str]) -> None:
    """Refuse to take a folder with annotated objects for class folders.

    Args:
        root: The folder.
        class_folders: The folders that would be its classes. Several real ones beside annotations are accepted.

    Raises:
        DataError: If the folders are those of a layout with annotations, which the message names.
    """
    if len(class_folders) > 1 and set(map(str.lower, class_folders)) - {
        *_PLAIN_FOLDERS,
        *ANNOTATION_FOLDERS,
        *TRAIN,
        *VALIDATION,
    }:
        return
    if layout := find_layout(root):
        raise DataError(
            f"{root} has no class folders but annotated objects ({layout.name}): train a detector, such as with "
            "--recipe coco/retinanet_tiny"
        )
    if other := unread_annotations(root):
        raise DataError(f"{root} has no class folders but annotated objects: {other}")
    if holds_masks(root):
        raise DataError(
            f"{root} has no class folders but images with masks: train a segmenter, such as with "
            "--recipe ade20k/semantic_fpn_tiny"
        )


def _found(root: Path, *, loose: bool) -> CocoLayout | None:
    """The layout with annotation files in the parts' folders, in a folder of annotations, beside the images, or below.

    With ``loose``, any JSON file counts, for a message about its content.
    """
    folders = sorted(path for path in _visible(root) if is_folder(path))
    parts = [folder for folder in folders if folder.name.lower() in (*TRAIN, *VALIDATION)]
    annotations = [folder for folder in folders if folder.name.lower() in ANNOTATION_FOLDERS]
    if subsets := _in_folders(parts, loose):
        exported = any(subset.path.name.startswith("_annotations.coco") for subset in subsets)
        return _of_subsets(root, subsets, "COCO as Roboflow exports it" if exported else "COCO, by parts")
    for folder in annotations:
        if subsets := [_subset(path) for path in _json_files(folder, loose)]:
            return _of_subsets(root, subsets, _title(root, subsets))
        if subsets := _in_folders([path for path in _visible(folder) if is_folder(path)], loose):
            return _of_subsets(root, subsets, "COCO")
    if subsets := [_subset(path) for path in _json_files(root, loose)]:
        studio = [subset.path.name for subset in subsets] == ["result.json"] and is_folder(root / "images")
        name = "COCO as Label Studio exports it" if studio else "COCO, annotation files beside the images"
        return _of_subsets(root, subsets, name)
    if len(folders) == len(_visible(root)) == 1:  # an archive's only folder
        return _found(folders[0], loose=loose)
    others = [folder for folder in folders[:_LISTED] if folder not in (*parts, *annotations)]
    subsets = _in_folders([folder for folder in others if _may_hold_json(folder)], loose=False)
    return _of_subsets(root, subsets, "COCO, by folders") if subsets else None


def _title(root: Path, subsets: Sequence[Subset]) -> str:
    cvat = all(subset.path.name.startswith("instances_") for subset in subsets) and any(
        is_folder(root / "images" / subset.name) and not subset.part for subset in subsets
    )
    return "COCO as CVAT exports it" if cvat else "COCO"


def _in_folders(folders: Sequence[Path], loose: bool) -> list[Subset]:
    """Subsets named after the folders of their files."""
    subsets = []
    for folder in sorted(folders):
        inner = [folder / name for name in ANNOTATION_FOLDERS if is_folder(folder / name)]
        for path in next((files for each in (folder, *inner) if (files := _json_files(each, loose))), []):
            subsets.append(Subset(folder.name, path, _part(folder)))
    return subsets


def _subset(path: Path) -> Subset:
    name = _WORDS.sub("", path.stem) or (path.parent.name if path.stem.startswith("_") else path.stem)
    return Subset(name, path, _part(path) or (_part(path.parent) if path.stem.startswith("_") else None))


def _part(path: Path) -> Part | None:
    word, name = part_word(path), path.stem.lower()
    if word is None and "train" not in name and re.search(r"val|test(?!ed)", name):
        return "val"  # minival2014, myvalset
    return None if word is None else "train" if word in TRAIN else "val"


def _of_subsets(root: Path, subsets: Sequence[Subset], name: str) -> CocoLayout:
    """Assign subsets to parts; those that are neither are trained on.

    Of the words for validation, the first of :data:`~transxnet.data.splits.VALIDATION` that occurs is used.
    """
    validation = [subset for subset in subsets if subset.part == "val"]
    words = {subset.path: part_word(Path(subset.name)) or part_word(subset.path) for subset in validation}
    word = next((word for word in (*VALIDATION, None) if word in words.values()), None)
    val = tuple(subset for subset in validation if words[subset.path] == word)
    unused = tuple(subset for subset in validation if subset not in val)
    train = tuple(subset for subset in subsets if subset.part != "val")
    return CocoLayout(name, root, train, val, unused)


def _json_files(folder: Path, loose: bool) -> list[Path]:
    """A folder's COCO files; only those of instances if there are any (COCO has captions beside them)."""
    if not is_folder(folder):
        return []
    files = sorted(path for path in _visible(folder) if path.suffix.lower() == ".json" and not is_folder(path))
    sniffed = files[:_LISTED]  # tools with a file for each image write thousands
    coco = [
        path for path in files if loose or COCO_NAME.search(path.name) or (path in sniffed and format_of(path) == COCO)
    ]
    return [path for path in coco if path.name.startswith("instances")] or coco


def _may_hold_json(folder: Path) -> bool:
    """Whether there is a JSON file or a folder of annotations among the first entries, not listing all images."""
    with suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name.lower() for entry in islice(entries, _LISTED)]
        return any(name.endswith(".json") or name in ANNOTATION_FOLDERS for name in names)
    return False


def lone_subset(path: Path) -> tuple[Path, Subset]:
    """The subset of an annotation file that was given by its path, and the folder from which images are looked for."""
    root = path.parent.parent if path.parent.name.lower() in ANNOTATION_FOLDERS else path.parent
    return root, _subset(path)


def _visible(folder: Path) -> list[Path]:
    return [path for path in entries_of(folder) if not path.name.startswith((".", "__"))]


def image_folders(subset: Subset, root: Path) -> list[Path]:
    """The existing folders that may contain a subset's images, the likeliest first."""
    word, here = part_word(subset.path) or part_word(Path(subset.name)), subset.path.parent
    own = [token for token in subset.path.stem.split("_") if word and token.lower().startswith(word)]  # train2017
    names = [subset.name, *own, *(TRAIN if word in TRAIN else VALIDATION if word else ())]
    folders = [root / middle / name for name in names for middle in ("", "images")]
    folders += [here, here / "images", root / "images", root]
    return [folder for folder in dict.fromkeys(folders) if is_folder(folder)]
