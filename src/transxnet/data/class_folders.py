"""Class folders: which folders are classes and which are parts of the data set, and the images in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transxnet.data.findings import Findings
from transxnet.data.folder_listing import Ignored, Listing, leads_back, list_folder
from transxnet.data.images.reading import EXTENSIONS, find_images, is_image_name
from transxnet.data.names import listed, matched_names, name_key, natural_key
from transxnet.data.splits import TEST, TRAIN, VALIDATION, part_folders, part_of_folder, remark_parts
from transxnet.errors import DataError

Classes = Mapping[str, Sequence[Path]]
"""The folders of each class, in natural order: several if they differ only in the Unicode form of the name."""


@dataclass(frozen=True)
class FolderPart:
    """Class folders of one part of a data set.

    Attributes:
        root: The folder around them.
        classes: The class folders.
    """

    root: Path
    classes: Classes


@dataclass
class FolderParts:
    """Parts of a folder of images.

    Attributes:
        train: The training part, if there is one.
        validation: The validation part, if there is one.
        ignored: What was ignored below the folder.
        findings: Problems and remarks.
    """

    train: FolderPart | None = None
    validation: FolderPart | None = None
    ignored: Ignored = field(default_factory=Ignored)
    findings: Findings = field(default_factory=Findings)


def find_parts(root: Path, known: Collection[str] = ()) -> FolderParts:
    """Find the class folders of each part of a folder of images.

    Folders named after a part are parts if they have folders in them. With images in them, ``train/``
    beside class folders is a class, and a validation part has no classes and is left out. The parts may
    also be inside each class folder.

    Args:
        root: The folder.
        known: Class names, which are classes even if they are named after a part.

    Raises:
        DataError: If there are no class folders, or a folder cannot be read.
    """
    found = FolderParts()
    listing = _listing(root, found)
    folders = [*listing.folders, *listing.links]
    inner = {path: _inner(path) for path in folders if part_of_folder(path.name)}
    parts = [path for path, one in inner.items() if one.folders or one.links]
    classes = [path for path in folders if path not in inner]
    flat = {path: _images(one) for path, one in inner.items() if path not in parts}
    for path, images in flat.items():
        if path.name in known or (classes and images and part_of_folder(path.name) in TRAIN):
            classes.append(path)
            found.findings.remark(f"{path.name}/ is a class, not a part of the data: it has images, no class folders")
        else:
            _note_unlabelled(path, images, bool(classes), found.findings)
    train, validation = part_folders(parts, TRAIN), part_folders(parts, VALIDATION)
    if train:
        found.train = FolderPart(train[0], _classes_in(train[0], found))
        for path in [*train[1:], *classes]:
            if find_images(path):
                found.findings.add(f"folders with images beside {train[0].name}/ (left out)", path.name)
    elif classes and not validation and (inside := _parts_in_classes(classes)):
        _take_parts_in_classes(root, inside, found)
    elif classes:
        found.train = FolderPart(root, _grouped(classes, found.findings))
    if validation:
        found.validation = FolderPart(validation[0], _classes_in(validation[0], found))
        _leave_out_foreign_test(found)
    if found.validation and validation:
        remark_parts(found.findings, [(str(part_of_folder(path.name)), f"{path.name}/") for path in validation],
                     has_train=found.train is not None)  # fmt: skip
    if not found.train and not found.validation:
        files = [*listing.files, *(path for one in inner.values() for path in one.files)]
        raise DataError(_no_classes(next(iter(flat), root), files))
    return found


def images_of(
    part: FolderPart, indices: Mapping[str, int], ignored: Ignored, *, allow_empty: bool
) -> tuple[list[Path], list[int]]:
    """The images of a part and their class indices, in the order of ``indices``.

    Args:
        part: The class folders.
        indices: The class index of each class folder to read, by name.
        ignored: Counts other files.
        allow_empty: Whether classes may have no images.

    Raises:
        DataError: If a class has no images, or none has.
    """
    paths: list[Path] = []
    targets: list[int] = []
    empty = []
    for name, index in indices.items():
        before = ignored.suffixes.copy()
        found = [path for folder in part.classes[name] for path in find_images(folder, ignored)]
        if not found:
            others = listed([f"{count} {suffix}" for suffix, count in (ignored.suffixes - before).items()])
            empty.append(f"{part.root / name}{f' (it has {others})' if others else ''}")
        paths += found
        targets += [index] * len(found)
    if not paths:
        raise DataError(f"the class folders of {part.root} have no images ({', '.join(sorted(EXTENSIONS))})")
    if empty and not allow_empty:
        raise DataError(f"no images in class folder {listed(empty)}; fill or remove it")
    return paths, targets


def only_nested_class(parts: FolderParts) -> Path | None:
    """The folder of the only training class if it has folders in it; None otherwise."""
    if parts.train is None or len(parts.train.classes) != 1:
        return None
    ((folder, *_),) = parts.train.classes.values()
    return folder if _inner(folder).folders else None


def validation_classes(parts: FolderParts) -> dict[str, str]:
    """The training class of each class folder of the validation part.

    Raises:
        DataError: If a class folder has none.
    """
    assert parts.train is not None
    assert parts.validation is not None
    matches = matched_names(parts.validation.classes, list(parts.train.classes))
    unknown = [name for name in parts.validation.classes if name not in matches]
    if unknown:
        raise DataError(f"{parts.validation.root} has classes that {parts.train.root} lacks: {listed(unknown)}")
    remark_matches(parts.validation.root, matches, parts.findings)
    return matches


def remark_matches(root: Path, matches: Mapping[str, str], findings: Findings) -> None:
    """Remark folders that were matched to a class of a different spelling."""
    other = [f"{name} as {known}" for name, known in matches.items() if name_key(name) != name_key(known)]
    if other:
        findings.remark(f"class folders of {root} are read as the classes of another case: {listed(other)}")


def _parts_in_classes(classes: Sequence[Path]) -> dict[Path, list[Path]] | None:
    """The parts inside each class folder; None unless every class folder has parts with images, and nothing else."""
    found = {}
    for path in sorted(classes, key=lambda path: natural_key(path.name)):
        inner = _inner(path)
        folders = [*inner.folders, *inner.links]
        if _images(inner) or not folders or not all(part_of_folder(folder.name) for folder in folders):
            return None
        found[path] = folders
    return found


def _take_parts_in_classes(root: Path, inside: Mapping[Path, Sequence[Path]], found: FolderParts) -> None:
    train, validation = (
        {path.name: part_folders(folders, names)[:1] for path, folders in inside.items()}
        for names in (TRAIN, VALIDATION)
    )
    words = dict.fromkeys(f"{folder.name}/" for folders in inside.values() for folder in folders)
    found.findings.remark(f"the parts are inside the class folders: {listed(list(words))}")
    used = {folder for part in (train, validation) for folders in part.values() for folder in folders}
    for folder in (folder for folders in inside.values() for folder in folders if folder not in used):
        found.findings.add("folders that are not used, besides the parts (left out)", str(folder))
    found.train = FolderPart(root, train)
    if any(validation.values()):
        found.validation = FolderPart(root, {name: folders for name, folders in validation.items() if folders})


def _leave_out_foreign_test(found: FolderParts) -> None:
    """Leave out a test part none of whose folders is a class: it has no labels."""
    train, test = found.train, found.validation
    if train is None or test is None or part_of_folder(test.root.name) not in TEST:
        return
    if not matched_names(test.classes, list(train.classes)):
        for name in test.classes:
            found.findings.add(f"folders in {test.root.name}/ that are not classes (left out)", name)
        found.validation = None


def _listing(folder: Path, found: FolderParts) -> Listing:
    """List a folder of class folders; files in it, and links out of it, are counted."""
    listing = list_folder(folder, found.ignored)
    links = [link for link in listing.links if not leads_back(link)]
    found.ignored.repeated += [link for link in listing.links if link not in links]
    found.ignored.followed += links
    for path in listing.files:
        if _is_image(path):
            found.findings.add("images outside class folders (left out)", str(path))
        else:
            found.ignored.add(path)
    return Listing(listing.folders, links, listing.files)


def _inner(folder: Path) -> Listing:
    return list_folder(folder, Ignored())


def _images(listing: Listing) -> list[Path]:
    return [path for path in listing.files if _is_image(path)]


def _is_image(path: Path) -> bool:
    return is_image_name(path.name) and not path.name.startswith(".")


def _note_unlabelled(part: Path, images: Sequence[Path], beside_classes: bool, findings: Findings) -> None:
    """Note a folder that is named after a part and has no class folders."""
    for image in images:
        findings.add(f"images in {part.name}/ without a class (left out)", str(image))
    if not images:
        findings.remark(f"{part.name}/ is not used: it has no class folders and no images")
    elif beside_classes:
        findings.remark(f"{part.name}/ is not taken for a class; if it is one, put all class folders into train/")


def _classes_in(root: Path, found: FolderParts) -> Classes:
    listing = _listing(root, found)
    return _grouped([*listing.folders, *listing.links], found.findings)


def _grouped(folders: Sequence[Path], findings: Findings) -> Classes:
    """Class folders in natural order; those that differ only in the Unicode form of the name are one class."""
    grouped: dict[str, list[Path]] = {}
    for path in sorted(folders, key=lambda path: natural_key(path.name)):
        grouped.setdefault(name_key(path.name), []).append(path)
    for paths in grouped.values():
        if len(paths) > 1:
            findings.remark(f"{len(paths)} folders named {paths[0].name} in different Unicode forms are one class")
    return {paths[0].name: paths for paths in grouped.values()}


def _no_classes(root: Path, files: Sequence[Path]) -> str:
    described = [path.name for path in files if path.suffix.lower() == ".json"]
    other = f" (annotations such as {listed(described, 1)} are for --task detection)" if described else ""
    return f"{root} has no class folders; put the images of each class in a separate folder{other}"
