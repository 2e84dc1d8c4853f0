"""Opening data sets of labelled images, for training, checking and evaluation."""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo

from transxnet.data.class_folders import find_parts, images_of, only_nested_class, remark_matches, validation_classes
from transxnet.data.coco.layout import refuse_annotated
from transxnet.data.description import DataDescription
from transxnet.data.findings import Findings
from transxnet.data.image_sources import (
    DigitsSource,
    FolderSource,
    ImageSource,
    LabelledData,
    OpenedParts,
    PackedSource,
    StoredSource,
    described_part,
    loaded,
)
from transxnet.data.names import listed, matched_names
from transxnet.data.packed.parquet import open_parquet
from transxnet.data.packed.shards import open_shards
from transxnet.data.packed.webdataset import open_webdataset
from transxnet.data.splits import HELD_OUT
from transxnet.errors import DataError
from transxnet.extras import require
from transxnet.files import reason, user_path

__all__ = [
    "DIGITS",
    "SCENES",
    "DigitsSource",
    "FolderSource",
    "ImageSource",
    "LabelledData",
    "OpenedParts",
    "StoredSource",
    "imagenet_synsets",
    "loaded",
    "open_data",
    "open_evaluated",
    "open_evaluation",
    "open_parts",
]

DIGITS = "digits"
"""Name of the embedded data set for classification: scikit-learn's 1,797 handwritten digits."""

SCENES = "scenes"
"""Name of the embedded data set for detection and segmentation: digits on photographs."""

_CLASS_FOLDERS = "class folders"


def open_data(data: str, seed: int = 0) -> LabelledData:
    """Open the embedded digits, or a folder of images, of tar shards or of Parquet files.

    A folder of images has ``train/`` and ``val/`` (or ``validation/``, or ``test/``), in any case, with a
    folder for each class, or the class folders themselves; without a validation part, a fifth of each
    class is held out.

    Args:
        data: "digits" or a path.
        seed: Chooses the held-out images if there is no validation part; those of the digits are fixed.

    Raises:
        DataError: If the folder does not exist, has no images, or has fewer than two classes.
    """
    return _digits() if data == DIGITS else open_parts(data).divided(seed)


def open_parts(data: str, damaged: dict[str, str] | None = None) -> OpenedParts:
    """Open the parts "train" and "val" of a folder, or the only one of them.

    Args:
        data: A folder of images, of tar shards or of Parquet files.
        damaged: Receives damaged shards and the reasons; by default these raise an error.

    Raises:
        DataError: As for :func:`open_data`.
    """
    root = _existing(data)
    return _packed(root, damaged) or _folder_parts(root)


def open_evaluation(data: str, label_names: Sequence[str] | None, num_classes: int) -> ImageSource:
    """Open images to evaluate a network; arguments and errors are those of :func:`open_evaluated`."""
    return open_evaluated(data, label_names, num_classes)[0]


def open_evaluated(
    data: str, label_names: Sequence[str] | None, num_classes: int
) -> tuple[ImageSource, DataDescription]:
    """Open images to evaluate a network, labelled with the network's class indices.

    Folders are matched to classes by name, in any Unicode form. For ImageNet's classes, WordNet ids and the
    numbers 0 to 999 (of ImageNet-V2) are accepted too. The folders may be a subset of the classes.

    Args:
        data: "digits", a folder of class folders, or one with ``val/`` or ``validation/`` in it; or a
            folder of tar shards or of Parquet files.
        label_names: The network's class names; None if unknown.
        num_classes: The network's number of classes.

    Returns:
        The images, and what was found.

    Raises:
        DataError: As for :func:`open_data`, or if folders cannot be matched to the classes.
    """
    if data == DIGITS:
        digits = _digits()
        if num_classes != len(digits.validation.class_names):
            raise DataError(f"the digits have 10 classes, the network {num_classes}")
        return digits.validation, digits.description()
    root = _existing(data)
    names = list(label_names or (imagenet_synsets() if num_classes == 1000 else ()))
    packed = _packed(root)
    if packed:
        part = "val" if "val" in packed.sources else "train"
        source: ImageSource = _relabelled(root, packed.sources[part], names, num_classes, packed.findings)
        layout, origin, findings = packed.layout, packed.origins[part], packed.findings
    else:
        source, origin, findings = _evaluated_folder(root, names, num_classes)
        layout = _CLASS_FOLDERS
    return source, DataDescription(layout, (described_part("evaluated", origin, source),), findings)


def imagenet_synsets() -> list[str]:
    """The WordNet ids of ImageNet-1K's classes, in the order of the released networks' outputs."""
    return list(_imagenet().label_names())


@functools.cache
def _imagenet() -> ImageNetInfo:
    """ImageNet-1K as timm describes it, in files of 20,000 lines."""
    return ImageNetInfo("imagenet-1k")


def _digits() -> LabelledData:
    require(f'the data set "{DIGITS}"', "train", "scikit-learn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pictures = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    indices = np.arange(len(pictures))
    train, test = train_test_split(indices, test_size=HELD_OUT, stratify=bunch.target, random_state=0)
    learned, held = (DigitsSource(pictures[part], bunch.target[part].tolist()) for part in (train, test))
    origins = {"train": "embedded", "val": "a fixed fifth of each class, held out"}
    return LabelledData(learned, held, OpenedParts(DIGITS, "handwritten digits", {}, origins, Findings()))


def _existing(data: str) -> Path:
    root = user_path(data)
    try:
        mode = root.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f'{root} does not exist; data is a folder of class folders, or "{DIGITS}"') from error
    except OSError as error:
        raise DataError(f"{root} cannot be read: {reason(error)}") from error
    if not stat.S_ISDIR(mode):
        raise DataError(f'{root} is a file, not a folder; data is a folder of class folders, or "{DIGITS}"')
    return root


def _packed(root: Path, damaged: dict[str, str] | None = None) -> OpenedParts | None:
    """The parts of a folder of packed files; None for other folders."""
    findings = Findings()
    openers: dict[str, Callable[[], Mapping[str, PackedSource]]] = {
        "shards": lambda: open_shards(root, damaged),
        "tar files": lambda: open_webdataset(root, damaged, findings),
        "Parquet files": lambda: open_parquet(root, findings),
    }
    for layout, opened in openers.items():
        if sources := opened():
            return OpenedParts(str(root), layout, sources, dict.fromkeys(sources, str(root)), findings)
    return None


def _folder_parts(root: Path) -> OpenedParts:
    try:
        found = find_parts(root)
    except DataError:
        refuse_annotated(root, ())
        raise
    refuse_annotated(root, list(one.classes) if (one := found.train or found.validation) else ())
    sources: dict[str, FolderSource] = {}
    names: Sequence[str] = ()
    if found.train:
        names = list(found.train.classes)
        indices = {name: index for index, name in enumerate(names)}
        paths, targets = images_of(found.train, indices, found.ignored, allow_empty=False)
        sources["train"] = FolderSource(tuple(names), paths, targets)
    if found.validation:
        matches = validation_classes(found) if found.train else {name: name for name in found.validation.classes}
        names = names or list(matches)
        indices = {name: names.index(known) for name, known in matches.items()}
        paths, targets = images_of(found.validation, indices, found.ignored, allow_empty=True)
        sources["val"] = FolderSource(tuple(names), paths, targets)
    found.ignored.report(found.findings)
    roots = {"train": found.train, "val": found.validation}
    origins = {part: str(one.root) for part, one in roots.items() if one}
    return OpenedParts(str(root), _CLASS_FOLDERS, sources, origins, found.findings, only_nested_class(found))


def _evaluated_folder(root: Path, names: Sequence[str], num_classes: int) -> tuple[FolderSource, str, Findings]:
    found = find_parts(root, names)
    part = found.validation or found.train
    assert part is not None
    if part.root != root and not found.validation:
        found.findings.remark(f"{part.root.name}/ is evaluated: there is no val/")
    folders = list(part.classes)
    if not names and len(folders) == num_classes:
        names = folders
    indices = _matched(part.root, folders, names, num_classes, found.findings)
    paths, targets = images_of(part, indices, found.ignored, allow_empty=True)
    found.ignored.report(found.findings)
    return FolderSource(tuple(names or folders), paths, targets), str(part.root), found.findings


def _relabelled(
    root: Path, source: StoredSource, names: Sequence[str], num_classes: int, findings: Findings
) -> PackedSource:
    assert isinstance(source, PackedSource)
    if not names and len(source.class_names) == num_classes:
        names = list(source.class_names)
    present = [source.class_names[target] for target in sorted(set(source.targets))]
    indices = _matched(root, present, names, num_classes, findings)
    return source.relabelled(names or source.class_names, [indices.get(name, -1) for name in source.class_names])


def _matched(
    root: Path, folders: Sequence[str], names: Sequence[str], num_classes: int, findings: Findings
) -> dict[str, int]:
    position = {name: index for index, name in enumerate(names)}
    matches = matched_names(folders, names)
    if len(matches) == len(folders):
        remark_matches(root, matches, findings)
        return {name: position[matches[name]] for name in folders}
    if names == imagenet_synsets() and all(_is_number(name) and int(name) < num_classes for name in folders):
        return {name: int(name) for name in folders}  # ImageNet-V2: 10 comes after 9, not after 1
    unknown = [name for name in folders if name not in matches]
    known = f"; its classes are {listed(list(names))}" if names else ""
    raise DataError(
        f"{root} has folders that are not among the network's {num_classes} classes: {listed(unknown)}{known}"
    )


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 10
