"""Images with a class for each pixel, in a mask beside each image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transxnet.data.description import DataDescription, PartDescription
from transxnet.data.findings import Findings
from transxnet.data.images.reading import BadImageError, opened, read_annotated
from transxnet.data.masks.class_files import ClassList, find_class_list
from transxnet.data.masks.classes import Colors, ade20k_classes, palette
from transxnet.data.masks.encoding import NO_CODE, MaskEncoding, Totals, codes_in, encoding, shown, totals_of
from transxnet.data.masks.layout import LAYOUTS, MaskPart, find_masks
from transxnet.data.masks.rules import BACKGROUND, MAX_CLASSES, Labelling, is_spread, label_by_rules, needs_zero
from transxnet.data.masks.values import COLOR, MaskSummary, read_mask, survey
from transxnet.data.names import is_folder, listed
from transxnet.data.splits import HELD_OUT, held_out
from transxnet.dense.pixel_classes import IGNORED
from transxnet.errors import DataError
from transxnet.files import user_path


@dataclass(frozen=True)
class SegmentationSource:
    """Images and their masks.

    Attributes:
        class_names: Names in the order of the classes.
        colors: (classes, 3), uint8, for drawing.
        images: Image files.
        label_files: The mask of each.
        encoding: The class of each value or colour of the masks.
        findings: Problems of the folder, and how it was read.
        pixels: (images, classes), labelled pixels of each image.
        origin: Where the images come from, in words.
    """

    class_names: tuple[str, ...]
    colors: Colors
    images: Sequence[Path]
    label_files: Sequence[Path]
    encoding: MaskEncoding
    findings: Findings
    pixels: npt.NDArray[np.uint32]
    origin: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ignores_zero(self) -> bool:
        """Whether value 0 (black) is no class."""
        return not {0, COLOR}.intersection(self.encoding.codes)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value (or code of the colour) that masks have for each class."""
        return self.encoding.codes

    def name(self, index: int) -> str:
        return str(self.images[index])

    def load(self, index: int) -> Image.Image:
        """The image as RGB, in the orientation that was labelled.

        Raises:
            BadImageError: If the file cannot be used, or its size differs from the mask's.
        """
        with opened(self.label_files[index]) as labels:
            size = labels.height, labels.width
        return read_annotated(self.images[index], size, f"its labels ({self.label_files[index]}) are")

    def labels(self, index: int) -> Tensor:
        """The class of each pixel, (H, W), int64; 255 is ignored.

        Raises:
            BadImageError: If the mask cannot be used, or its size differs from the image's.
        """
        path = self.label_files[index]
        labels = self.encoding.labels(read_mask(path))
        if fault := _size_fault(self.images[index], (labels.shape[1], labels.shape[0])):
            raise BadImageError(str(path), fault)
        return torch.from_numpy(labels).long()

    def subset(self, indices: Sequence[int] | npt.NDArray[np.intp], origin: str | None = None) -> SegmentationSource:
        """The images at the given indices."""
        chosen = [int(index) for index in indices]
        images, labels = ([files[index] for index in chosen] for files in (self.images, self.label_files))
        pixels = self.pixels[np.array(chosen, np.intp)]
        return replace(self, images=images, label_files=labels, pixels=pixels, origin=origin or self.origin)

    def class_pixels(self) -> dict[str, int]:
        """Pixels of each class."""
        return dict(zip(self.class_names, self.pixels.sum(0, np.int64).tolist(), strict=True))


@dataclass(frozen=True)
class SegmentationData:
    """Training images, if there are any, and validation images.

    Attributes:
        train: Training images.
        validation: Validation images.
        layout: Layout of the folder, in words.
        everything: The images that both were drawn from; None if the folder has a validation part.
    """

    train: SegmentationSource | None
    validation: SegmentationSource
    layout: str
    everything: SegmentationSource | None = None

    def description(self) -> DataDescription:
        """Layout, images, pixels of each class, and findings."""
        sources = {"training": self.train, "validation": self.validation}
        parts = [
            PartDescription(name, source.origin, len(source), "pixels", source.class_pixels())
            for name, source in sources.items()
            if source is not None
        ]
        return DataDescription(self.layout, tuple(parts), self.validation.findings)


@dataclass(frozen=True)
class _Part:
    """Images of a part and the values of their masks."""

    pairs: MaskPart
    summaries: list[MaskSummary]


def open_segmentation(
    data: str,
    *,
    reduce_zero_label: bool,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    values: Sequence[int] = (),
) -> SegmentationData:
    """Open a folder of images with masks, in one of the layouts of :mod:`transxnet.data.masks.layout`.

    The values of all masks are counted, in threads. Which value is which class is decided by a file that names
    the classes, if there is one, and by the values; the findings say how. Without a validation part, a fifth of
    the images is held out.

    Args:
        data: The folder.
        reduce_zero_label: Whether value 0 (black) is ignored and classes start at 1, as in ADE20K.
        seed: Chooses the held-out images if there is no validation part.
        classes: A network's class names; the folder's classes are brought into their order.
        values: Values that the network's data set had for them, if not 0, 1, 2 and so on.

    Raises:
        DataError: If there are no images or masks, or the classes are not as expected.
    """
    root = user_path(data)
    if not is_folder(root):
        kind = "is a file" if os.path.lexists(root) else "does not exist"
        raise DataError(f"{root} {kind}; data is a folder with {LAYOUTS}")
    findings = Findings()
    layout, found = find_masks(root, findings)
    listing = find_class_list(root, MAX_CLASSES)
    parts = {name: _surveyed(pairs, listing, findings) for name, pairs in found.items()}
    _report_faults(list(parts.values()), findings)
    totals = totals_of([one for part in parts.values() for one in part.summaries], listing, values, findings)
    listing = listing or _ade20k(root, found, reduce_zero_label, classes)
    voc = "JPEGImages" in layout
    if classes is None:
        reduce_zero_label = reduce_zero_label and not needs_zero(root, listing, totals, voc, findings)
        labelling = label_by_rules(root, listing, totals, reduce_zero_label, voc, findings)
    else:
        labelling = _as_expected(root, listing, totals, reduce_zero_label, list(classes), values, voc, findings)
    sources = {name: _source(part, labelling, findings) for name, part in parts.items()}
    _report_values(list(parts.values()), labelling, totals, findings)
    _report_pixels(sources, findings)
    layout = f"masks, {layout}"
    if "train" not in sources or "val" in sources:
        return SegmentationData(sources.get("train"), sources["val"], layout)
    everything = sources["train"]
    several = np.minimum((everything.pixels > 0).sum(1), 2)  # so that both parts have images of nothing and of objects
    held = held_out(several, seed)
    held = held if held.any() else held_out(several * 0, seed)
    if not held.any():
        raise DataError(f"{root} has a single image: nothing can be held out for validation")
    origin = f"held out of the images {everything.origin}: {HELD_OUT:.0%}, chosen by the seed"
    train, validation = everything.subset(np.flatnonzero(~held)), everything.subset(np.flatnonzero(held), origin)
    return SegmentationData(train, validation, layout, everything)


def _surveyed(pairs: MaskPart, listing: ClassList | None, findings: Findings) -> _Part:
    """A part with the values of its masks; those with more values than a mask can have are dropped.

    Raises:
        DataError: If all are.
    """
    summaries = survey(pairs.masks, listing.color_codes if listing else ())
    kept = [index for index, summary in enumerate(summaries) if not summary.fault or summary.size == (0, 0)]
    for path, summary in zip(pairs.masks, summaries, strict=True):
        if summary.fault and summary.size != (0, 0):
            findings.add("masks with too many values (dropped)", f"{path}: {summary.fault}")
    if not kept:
        first = f"{pairs.masks[0]}: {summaries[0].fault}"
        raise DataError(
            f"none of the {len(summaries):,} masks of the images {pairs.origin} can be used; the first is {first}"
        )
    images, masks = ([paths[index] for index in kept] for paths in (pairs.images, pairs.masks))
    return _Part(MaskPart(pairs.origin, images, masks), [summaries[index] for index in kept])


def _source(part: _Part, labelling: Labelling, findings: Findings) -> SegmentationSource:
    encoding = labelling.encoding
    pixels = np.zeros((len(part.summaries), IGNORED + 1), np.uint32)
    for row, summary in zip(pixels, part.summaries, strict=True):
        codes = codes_in(summary, encoding.colored, encoding.bit_value)
        np.add.at(row, encoding.classes(codes, lossy=summary.lossy), summary.counts.astype(np.uint32))
    return SegmentationSource(
        labelling.names,
        labelling.colors,
        part.pairs.images,
        part.pairs.masks,
        encoding,
        findings,
        pixels[:, : len(labelling.names)].copy(),
        part.pairs.origin,
    )


def _ade20k(
    root: Path, found: Mapping[str, MaskPart], reduce_zero_label: bool, classes: Sequence[str] | None
) -> ClassList | None:
    """ADE20K's classes, if the files are named as in ADE20K."""
    released = all(path.name.startswith("ADE_") for pairs in found.values() for path in pairs.images)
    if not (reduce_zero_label and released) or classes is not None:
        return None
    names, colors = ade20k_classes()
    return ClassList(root / "ADE20K's list", tuple(names), colors)


def _as_expected(
    root: Path,
    listing: ClassList | None,
    totals: Totals,
    reduce_zero_label: bool,
    classes: list[str],
    values: Sequence[int],
    voc: bool,
    findings: Findings,
) -> Labelling:
    """Classes and codes in the order of a network's classes.

    Raises:
        DataError: If the folder has pixels of other classes.
    """
    usual = list(values) or list(range(reduce_zero_label, len(classes) + reduce_zero_label))
    named = listing is None or list(listing.names) in (classes, [name for name in classes if name != BACKGROUND])
    explicit = listing is not None and (listing.values or listing.is_table)
    if named and not explicit:
        own = encoding(usual, totals, reduce_zero_label)
        fits = own.is_known(np.array(totals.present, np.int64)).all()
        if values or (fits and not (is_spread(totals.present) and len(totals.present) == len(classes))):
            return Labelling(tuple(classes), _colors_of(listing, classes), own)
        listing = listing or ClassList(Path("the network's list"), tuple(classes), palette(len(classes)))
    folder = label_by_rules(root, listing, totals, reduce_zero_label, voc, findings)
    names = list(folder.names)
    present = {names[label] for label in folder.encoding.classes(np.array(totals.present)).tolist() if label != IGNORED}
    if unknown := [name for name in names if name not in classes and name in present]:
        missing = [name for name in classes if name not in names]
        lacks = f" and lacks {listed(missing)}" if missing else ""
        raise DataError(f"{root}: its classes are not the {len(classes)} expected: it has {listed(unknown)}{lacks}")
    codes = [folder.encoding.codes[names.index(name)] if name in names else NO_CODE for name in classes]
    own_colors = ClassList(root, folder.names, folder.colors)
    return Labelling(tuple(classes), _colors_of(own_colors, classes), encoding(codes, totals, reduce_zero_label))


def _colors_of(listing: ClassList | None, classes: Sequence[str]) -> Colors:
    """Colours of classes: those of a list for the names in it."""
    colors = palette(len(classes))
    for index, name in enumerate(classes):
        if listing is not None and name in listing.names:
            colors[index] = listing.colors[listing.names.index(name)]
    return colors


def _size_fault(image: Path, size: tuple[int, int]) -> str:
    """Why a mask of a size does not fit its image; empty if it does, or if the image cannot be opened."""
    with suppress(BadImageError), opened(image) as found:  # reported when the image is read
        if sorted(found.size) != sorted(size):
            return f"{size[0]} x {size[1]} pixels, but its image is {found.width} x {found.height}"
    return ""


def _report_faults(parts: Sequence[_Part], findings: Findings) -> None:
    """Name masks that cannot be used.

    Raises:
        DataError: If none can.
    """
    faults = []
    usable = 0
    for part in parts:
        for image, path, summary in zip(part.pairs.images, part.pairs.masks, part.summaries, strict=True):
            if fault := summary.fault or _size_fault(image, summary.size):
                faults.append(f"{path}: {fault}")
                findings.add("masks that cannot be used", faults[-1])
            usable += not summary.fault
            if summary.lossy and not summary.fault:
                findings.add(
                    "masks in a lossy format (values rounded to the nearest class; save them as PNG)", str(path)
                )
    if not usable:
        raise DataError(f"none of the {len(faults):,} masks can be used; the first is {faults[0]}")


def _report_values(parts: Sequence[_Part], labelling: Labelling, totals: Totals, findings: Findings) -> None:
    """Name masks with values that are no class."""
    known = labelling.encoding.is_known(np.array(totals.present, np.int64))
    unknown = {code for code, is_class in zip(totals.present, known.tolist(), strict=True) if not is_class}
    for part in parts if unknown else ():
        for path, summary in zip(part.pairs.masks, part.summaries, strict=True):
            codes = codes_in(summary, totals.colored, totals.bit_value).tolist()
            if not summary.lossy and (odd := [shown(code) for code in codes if code in unknown]):
                findings.add("masks with values that are no class (their pixels are ignored)", f"{path}: {listed(odd)}")


def _report_pixels(sources: Mapping[str, SegmentationSource], findings: Findings) -> None:
    """Name classes without pixels."""
    counts = {name: source.class_pixels() for name, source in sources.items()}
    (names, *_) = counts.values()
    absent = [name for name in names if not any(count[name] for count in counts.values())]
    if absent:
        findings.remark(f"classes without pixels, which cannot be learned: {listed(absent, 10)}")
    unseen = [name for name, count in counts.get("train", {}).items() if not count and name not in absent]
    if unseen:
        findings.remark(f"classes with pixels in validation images only: {listed(unseen, 10)}")
