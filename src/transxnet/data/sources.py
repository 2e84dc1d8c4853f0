"""Sources of labelled images."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import ImageNetInfo

from transxnet.data.images import EXTENSIONS, BadImageError, find_images, read_image
from transxnet.data.names import entries_of, is_folder, listed, natural_key
from transxnet.data.parquet import open_parquet
from transxnet.data.shards import open_shards
from transxnet.data.splits import HELD_OUT, TRAIN, VALIDATION, held_out, part_folder
from transxnet.data.webdataset import open_webdataset
from transxnet.errors import DataError
from transxnet.files import reason, user_path

DIGITS = "digits"
"""Name of the embedded data set for classification: scikit-learn's 1,797 handwritten digits."""

SCENES = "scenes"
"""Name of the embedded data set for detection and segmentation: digits on photographs."""


class ImageSource(Protocol):
    """Labelled images that are read one by one."""

    @property
    def class_names(self) -> Sequence[str]:
        """Class names, in the order of the class indices."""

    @property
    def targets(self) -> Sequence[int]:
        """The class index of each image."""

    def name(self, index: int) -> str:
        """Name of an image, for messages."""

    def load(self, index: int) -> Image.Image:
        """Read an image as RGB; raises BadImageError if it cannot be used."""


def loaded(source: ImageSource) -> Iterator[tuple[str, Image.Image | None, str]]:
    """Each image's name and pixels; None and the reason in their place for an unreadable one."""
    for index in range(len(source.targets)):
        try:
            yield source.name(index), source.load(index), ""
        except BadImageError as error:
            yield source.name(index), None, error.reason


class StoredSource(ImageSource, Protocol):
    """Images in files, which can be divided."""

    def subset(self, indices: npt.NDArray[np.intp]) -> Self:
        """The images at the given indices."""


class PackedSource(StoredSource, Protocol):
    """Images in packed files of many images each."""

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> Self:
        """The same images, with each target replaced by ``indices[target]``."""


@dataclass(frozen=True)
class FolderSource:
    """Image files, with class indices."""

    class_names: Sequence[str]
    paths: Sequence[Path]
    targets: Sequence[int]

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def load(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def subset(self, indices: npt.NDArray[np.intp]) -> FolderSource:
        return replace(self, paths=[self.paths[i] for i in indices], targets=[self.targets[i] for i in indices])


@dataclass(frozen=True)
class DigitsSource:
    """Handwritten digits of 8 x 8 pixels, resized to 32 x 32.

    Attributes:
        pictures: (n, 8, 8), grey values from 0 to 255.
    """

    pictures: npt.NDArray[np.uint8]
    targets: Sequence[int]
    class_names: Sequence[str] = tuple(str(digit) for digit in range(10))

    def name(self, index: int) -> str:
        return f"digit {index}"

    def load(self, index: int) -> Image.Image:
        picture = Image.fromarray(self.pictures[index])
        return picture.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")


@dataclass(frozen=True)
class LabelledData:
    """Training and validation images."""

    train: ImageSource
    validation: ImageSource


def open_data(data: str, seed: int = 0) -> LabelledData:
    """Open the embedded digits, or a folder of images, of tar shards or of Parquet files.

    A folder of images has ``train/`` and ``val/`` (or ``validation/``) with a folder for each class, or
    the class folders themselves; without a validation part, a fifth of each class is held out.

    Args:
        data: "digits" or a path.
        seed: Chooses the held-out images if there is no validation part; those of the digits are fixed.

    Raises:
        DataError: If the folder does not exist, has no images, or has fewer than two classes.
    """
    if data == DIGITS:
        return _digits()
    parts = open_parts(data)
    if "train" not in parts:
        raise DataError(f"{data} has validation images but no training images")
    train = parts["train"]
    if len(train.class_names) < 2:
        name = train.class_names[0]
        raise DataError(f"{data} has one class, {name!r}; training needs at least two class folders")
    if "val" in parts:
        return LabelledData(train, parts["val"])
    held = held_out(train.targets, seed)
    if not held.any():
        raise DataError("every class has a single image: nothing can be held out; add a val folder")
    return LabelledData(*(train.subset(np.flatnonzero(part)) for part in (~held, held)))


def open_parts(data: str, damaged: dict[str, str] | None = None) -> dict[str, StoredSource]:
    """Open the parts "train" and "val" of a folder, or the only one of them.

    Args:
        data: A folder of images, of tar shards or of Parquet files.
        damaged: Receives damaged shards and the reasons; by default these raise an error.

    Raises:
        DataError: As for :func:`open_data`.
    """
    root = _existing(data)
    return {**(_packed(root, damaged) or _folder_parts(root))}


def open_evaluation(data: str, label_names: Sequence[str] | None, num_classes: int) -> ImageSource:
    """Open images to evaluate a network, labelled with the network's class indices.

    Folders are matched to classes by name. For ImageNet's classes, WordNet ids and the numbers 0 to 999
    (of ImageNet-V2) are accepted too. The folders may be a subset of the classes.

    Args:
        data: "digits", a folder of class folders, or one with ``val/`` or ``validation/`` in it; or a
            folder of tar shards or of Parquet files.
        label_names: The network's class names; None if unknown.
        num_classes: The network's number of classes.

    Raises:
        DataError: As for :func:`open_data`, or if folders cannot be matched to the classes.
    """
    if data == DIGITS:
        digits = _digits().validation
        if num_classes != len(digits.class_names):
            raise DataError(f"the digits have 10 classes, the network {num_classes}")
        return digits
    root = _existing(data)
    names = list(label_names or (imagenet_synsets() if num_classes == 1000 else ()))
    packed = _packed(root)
    if packed:
        return _relabelled(root, packed.get("val") or packed["train"], names, num_classes)
    root = part_folder(root, VALIDATION) or root
    folders = _classes(root)
    if not names and len(folders) == num_classes:
        names = folders
    return _read(root, _matched(root, folders, names, num_classes), skip_empty=True, names=names)


def imagenet_synsets() -> list[str]:
    """The WordNet ids of ImageNet-1K's classes, in the order of the released networks' outputs."""
    return list(ImageNetInfo("imagenet-1k").label_names())


def _digits() -> LabelledData:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pictures = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    indices = np.arange(len(pictures))
    train, test = train_test_split(indices, test_size=HELD_OUT, stratify=bunch.target, random_state=0)
    return LabelledData(*(DigitsSource(pictures[part], bunch.target[part].tolist()) for part in (train, test)))


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


def _packed(root: Path, damaged: dict[str, str] | None = None) -> dict[str, PackedSource]:
    """The parts of a folder of packed files; empty for other folders."""
    parts: dict[str, PackedSource] = {}
    parts.update(open_shards(root, damaged) or open_webdataset(root, damaged) or open_parquet(root))
    return parts


def _folder_parts(root: Path) -> dict[str, FolderSource]:
    train, validation = part_folder(root, TRAIN), part_folder(root, VALIDATION)
    classes = _classes(train or root)
    if validation and not train and set(classes) <= set(VALIDATION):
        return {"val": _read(validation, _classes(validation), skip_empty=True)}
    parts = {"train": _read(train or root, classes, skip_empty=False)}
    if train and validation:
        unknown = [name for name in _classes(validation) if name not in classes]
        if unknown:
            raise DataError(f"{validation} has classes that {train} lacks: {listed(unknown)}")
        parts["val"] = _read(validation, classes, skip_empty=True)
    return parts


def _relabelled(root: Path, source: PackedSource, names: Sequence[str], num_classes: int) -> PackedSource:
    if not names and len(source.class_names) == num_classes:
        names = list(source.class_names)
    present = [source.class_names[target] for target in sorted(set(source.targets))]
    indices = _matched(root, present, names, num_classes)
    return source.relabelled(names or source.class_names, [indices.get(name, -1) for name in source.class_names])


def _classes(root: Path) -> list[str]:
    folders = [path.name for path in entries_of(root) if is_folder(path) and not path.name.startswith((".", "__"))]
    if not folders:
        raise DataError(f"{root} has no class folders; put the images of each class in a separate folder")
    return sorted(folders, key=natural_key)


def _read(
    root: Path, classes: Sequence[str] | dict[str, int], *, skip_empty: bool, names: Sequence[str] | None = None
) -> FolderSource:
    indices = classes if isinstance(classes, dict) else {name: index for index, name in enumerate(classes)}
    paths: list[Path] = []
    targets: list[int] = []
    empty = []
    for name, index in indices.items():
        found = find_images(root / name)
        if not found:
            empty.append(name)
        paths += found
        targets += [index] * len(found)
    if not paths:
        raise DataError(f"the class folders of {root} have no images ({', '.join(sorted(EXTENSIONS))})")
    if empty and not skip_empty:
        raise DataError(f"no images in class folder {listed([str(root / name) for name in empty])}; fill or remove it")
    return FolderSource(tuple(names or indices), paths, targets)


def _matched(root: Path, folders: Sequence[str], names: Sequence[str], num_classes: int) -> dict[str, int]:
    position = {name: index for index, name in enumerate(names)}
    if all(name in position for name in folders):
        return {name: position[name] for name in folders}
    if names == imagenet_synsets() and all(_is_number(name) and int(name) < num_classes for name in folders):
        return {name: int(name) for name in folders}  # ImageNet-V2: 10 comes after 9, not after 1
    unknown = [name for name in folders if name not in position]
    known = f"; its classes are {listed(list(names))}" if names else ""
    raise DataError(
        f"{root} has folders that are not among the network's {num_classes} classes: {listed(unknown)}{known}"
    )


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 10
