"""Finding images and their masks in a folder: ADE20K's layout, Pascal VOC's, CVAT's, Cityscapes' and others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transxnet.data.findings import Findings
from transxnet.data.images.reading import find_images, is_image_name
from transxnet.data.names import entries_of, is_file, is_folder, natural_key
from transxnet.data.splits import TRAIN, VALIDATION
from transxnet.errors import DataError
from transxnet.files import read_text, reading

_IMAGES = ("images", "jpegimages", "leftimg8bit", "imgs", "image", "img")
_MASKS = (
    "annotations", "masks", "labels", "segmentationclasspng", "segmentationclass", "segmentationclassraw", "gtfine",
    "mask", "label", "annotation", "segmentation", "segmentations", "gt", "ground_truth", "groundtruth",
)  # fmt: skip
_BESIDE = ("_masks", "_mask", "_labels", "_label", "_annotations", "annot", "_gt")
"""Endings of a folder of masks beside the folder of a part's images."""

_MASK_NAME = re.compile(
    r"[_-](?:(?:gtfine|gtcoarse)_)?(?:masks?|labels?|labelids|labeltrainids|seg|segmentation|annotation|gt)$", re.I
)
_MASK_PREFIX = re.compile(r"^(?:masks?|labels?|seg)[_-]", re.I)
_IMAGE_NAME = re.compile(r"[_-](?:leftimg8bit|images?|img|rgb)$", re.I)
_OTHER_MASK = re.compile(r"_(?:gtfine|gtcoarse)_(?:color|instanceids)$", re.I)  # Cityscapes'
_MAX_LIST = 2**26  # bytes of a list of names

LAYOUTS = (
    "images/ and annotations/ (or masks/, labels/), train/images and train/masks, JPEGImages/ and SegmentationClass/, "
    "or x.jpg beside x_mask.png"
)
"""The layouts in words, for messages."""


@dataclass(frozen=True)
class MaskPart:
    """Images of one part of a data set and the mask of each.

    Attributes:
        origin: Where they are, for messages.
        images: Image files.
        masks: The mask of each.
    """

    origin: str
    images: list[Path]
    masks: list[Path]


@dataclass(frozen=True)
class _Folders:
    """Folders of a part's images and masks; the same one if they lie beside each other."""

    images: Path
    masks: Path
    names: Sequence[str] | None = None  # of the images, if a list chooses them


def holds_masks(root: Path) -> bool:
    """Whether a folder holds images and masks of the same names in one of the known layouts."""
    try:
        return bool(find_masks(root, Findings())[1])
    except DataError:
        return False


def find_masks(root: Path, findings: Findings) -> tuple[str, dict[str, MaskPart]]:
    """Find the images and masks of "train" and "val".

    Args:
        root: The folder.
        findings: Images without a mask and masks without an image are added.

    Returns:
        The layout in words; and the parts that there are.

    Raises:
        DataError: If there are none, or a part has only images or only masks.
    """
    layout, found = _find(root, findings)
    if not found:
        names = [path.name for path in (entries_of(root) if is_folder(root) else []) if is_folder(path)]
        images, masks = child(root, _IMAGES), _mask_folder(root)
        lacks = "masks" if images else "images"
        have = f" has {(images or masks).name}/ but no {lacks}" if images or masks else ""  # type: ignore[union-attr]
        raise DataError(
            f"{root}{have or ' has no images with masks'}; it needs {LAYOUTS}"
            + (f" (it has the folders {', '.join(sorted(names)[:8])})" if names and not have else "")
        )
    parts = {part: _matched(folders, root, findings) for part, folders in found.items()}
    return layout, parts


def child(root: Path, names: Iterable[str]) -> Path | None:
    """The first folder in ``root`` of one of these names, in any case; None if there is none."""
    if not is_folder(root):
        return None
    by_name = {path.name.lower(): path for path in sorted(entries_of(root), reverse=True)}
    exact = {path.name: path for path in by_name.values()}
    found = (exact.get(name) or by_name.get(name) for name in names)
    return next((path for path in found if path is not None and is_folder(path)), None)


def _find(root: Path, findings: Findings) -> tuple[str, dict[str, _Folders]]:
    images, masks = child(root, _IMAGES), _mask_folder(root)
    if images and masks:
        layout = f"{images.name}/ and {masks.name}/"
        lists = _listed(root, images, masks)
        return layout, lists or _parts(images, masks, findings) or {"train": _Folders(images, masks)}
    parts: dict[str, _Folders] = {}
    layout = ""
    for part, names in (("train", TRAIN), ("val", VALIDATION)):
        for name in names:
            folder = child(root, [name])
            if folder is None or part in parts:
                continue
            images, masks = child(folder, _IMAGES), _mask_folder(folder)
            beside = _holding_images(child(root, [f"{folder.name.lower()}{ending}"]) for ending in _BESIDE)
            if images and masks:
                layout, parts[part] = f"{images.name}/ and {masks.name}/ in each part", _Folders(images, masks)
            elif beside:
                layout, parts[part] = f"{folder.name}/ and {beside.name}/", _Folders(folder, beside)
            elif _has_both(folder):
                layout, parts[part] = "masks beside their images", _Folders(folder, folder)
    if not parts and _has_both(root):
        return "masks beside their images", {"train": _Folders(root, root)}
    return layout, parts


def _parts(images: Path, masks: Path, findings: Findings) -> dict[str, _Folders]:
    """Folders of the parts in the folders of images and of masks."""
    parts: dict[str, _Folders] = {}
    for part, names in (("train", TRAIN), ("val", VALIDATION)):
        for name in names:
            one = child(images, [name])
            other = child(masks, [name, *names])
            if one and other:
                if part in parts:
                    findings.remark(f"{one} is not used: {parts[part].images} is the {part} part")
                else:
                    parts[part] = _Folders(one, other)
        if part not in parts:
            single = child(images, names) or child(masks, names)
            if single and single.name.lower() == "test":
                findings.remark(f"{single} is not used: it has no masks")
            elif single:
                there = masks if single.parent == images else images
                raise DataError(f"{single} has no counterpart in {there} ({part})")
    return parts


def _listed(root: Path, images: Path, masks: Path) -> dict[str, _Folders]:
    """The parts that lists of names choose, as in Pascal VOC's ``ImageSets/Segmentation``."""
    sets = child(root, ["imagesets"])
    folder = sets and (child(sets, ["segmentation"]) or sets)
    if not folder:
        return {}
    files = {path.stem.lower(): path for path in entries_of(folder) if path.suffix == ".txt" and is_file(path)}
    parts: dict[str, _Folders] = {}
    for part, words in (("train", (*TRAIN, "trainval", "default")), ("val", VALIDATION)):
        path = next((files[word] for word in words if word in files), None)
        if path is None or (part == "train" and path.stem.lower() in ("trainval", "default") and parts):
            continue
        with reading(path, DataError, "it needs the name of an image on each line"):
            lines = [line.split()[0] for line in read_text(path, _MAX_LIST).splitlines() if line.strip()]
        if lines:
            parts[part] = _Folders(images, masks, lines)
    return parts


def _mask_folder(root: Path) -> Path | None:
    """The folder of masks in a folder: of several the first that holds image files."""
    return _holding_images(child(root, [name]) for name in _MASKS)


def _holding_images(folders: Iterable[Path | None]) -> Path | None:
    return next((folder for folder in folders if folder is not None and find_images(folder)), None)


def _has_both(folder: Path) -> bool:
    """Whether images and masks lie beside each other, such as x.jpg and x_mask.png."""
    names = {path.stem for path in entries_of(folder) if is_image_name(path.name)}
    return any(_MASK_NAME.sub("", name) in names for name in names if _MASK_NAME.search(name))


def _matched(folders: _Folders, root: Path, findings: Findings) -> MaskPart:
    images, masks = find_images(folders.images), find_images(folders.masks)
    known = {str(path) for path in masks}
    masks = [path for path in masks if not _OTHER_MASK.search(path.stem)]
    masks = [path for path in masks if str(path).replace("_labelIds.", "_labelTrainIds.") not in known - {str(path)}]
    if folders.images == folders.masks:
        images = [path for path in images if not _MASK_NAME.search(path.stem)]
        masks = [path for path in masks if _MASK_NAME.search(path.stem)]
    by_stem, labelled = _by_stem(folders.images, images), _by_stem(folders.masks, masks)
    wanted = _chosen(folders, by_stem, findings)
    pairs = _pairs(wanted, labelled)
    for stem in wanted:
        if stem not in pairs:
            findings.add("images without labels (dropped)", str(by_stem[stem]))
    if folders.names is None:
        for stem in labelled.keys() - set(pairs.values()):
            findings.add("labels without an image (dropped)", str(labelled[stem]))
    if not pairs:
        raise DataError(f"no image of {folders.images} has labels of the same name in {folders.masks}")
    stems = sorted(pairs, key=natural_key)
    origin = f"in {folders.images.relative_to(root) if folders.images != root else root}"
    return MaskPart(origin, [by_stem[stem] for stem in stems], [labelled[pairs[stem]] for stem in stems])


def _chosen(folders: _Folders, by_stem: dict[str, Path], findings: Findings) -> list[str]:
    """The stems of the images that belong to a part."""
    if folders.names is None:
        return list(by_stem)
    keys = {_key(stem): stem for stem in by_stem}
    chosen: dict[str, None] = {}
    for name in folders.names:
        stem = name.rpartition(".")[0] if is_image_name(name) else name
        found = keys.get(_key(stem)) or keys.get(_key(Path(stem).name))
        if found is None:
            findings.add("listed images without a file (dropped)", name)
        else:
            chosen[found] = None
    return list(chosen)


def _pairs(images: Iterable[str], masks: Iterable[str]) -> dict[str, str]:
    """The stem of the mask of each image that has one: the same name, or one with "mask" or the like in it."""
    exact = set(masks)
    plain: dict[str, str] = {}
    bare: dict[str, list[str]] = {}
    for mask in sorted(exact, key=lambda name: ("trainids" not in name.lower(), name)):
        folder, _, name = mask.rpartition("/")
        name = _MASK_PREFIX.sub("", _MASK_NAME.sub("", name)) or name
        plain.setdefault(_key(mask), mask)
        plain.setdefault(_key(f"{folder}/{name}" if folder else name), mask)
        bare.setdefault(_key(name), []).append(mask)
    pairs = {}
    for image in images:
        folder, _, name = image.rpartition("/")
        name = _IMAGE_NAME.sub("", name) or name
        keys = (_key(image), _key(f"{folder}/{name}" if folder else name))
        alone = bare.get(_key(name), [])
        found = image if image in exact else next((plain[key] for key in keys if key in plain), None)
        if found is None and len(alone) == 1:
            found = alone[0]
        if found is not None:
            pairs[image] = found
    return pairs


def _key(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _by_stem(root: Path, files: Sequence[Path]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in files:
        stem = path.relative_to(root).with_suffix("").as_posix()
        if stem in stems:
            raise DataError(f"{stems[stem]} and {path} differ only in their suffix; remove one")
        stems[stem] = path
    return stems
