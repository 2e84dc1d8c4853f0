"""Checking every image and annotation of a detection or segmentation data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from transxnet.data.coco.layout import contents_of
from transxnet.data.coco.opening import CocoSource, Crowds, open_coco
from transxnet.data.data_set_check import Faults, in_order
from transxnet.data.description import DataDescription, joined
from transxnet.data.images.reading import BadImageError
from transxnet.data.masks.opening import SegmentationData, SegmentationSource, open_segmentation

Source = CocoSource | SegmentationSource

_MASK_SIZE = (1, 1)  # masks are decoded only to check them


@dataclass(frozen=True)
class DenseDataReport:
    """Contents and problems of a data set with annotations.

    Attributes:
        parts: For each part, its number of images and, with boxes, the number of objects of each class.
        annotations: Problems of annotations, which are dropped or fixed, and remarks, one line each.
        broken: Name and reason for each image that cannot be used.
        description: The data set as training describes it.
    """

    parts: Mapping[str, tuple[int, Mapping[str, int]]]
    annotations: list[str]
    broken: Mapping[str, str]
    description: DataDescription

    @property
    def sound(self) -> bool:
        """Whether nothing is broken, left out or changed."""
        return not self.broken and not self.description.findings.counts


def is_annotated(data: str) -> bool:
    """Whether a folder has annotations of objects or of pixels, in any format."""
    return bool(contents_of(data))


class DenseCheck:
    """A check of a data set with annotations.

    Args:
        data: A folder in COCO's layout or that of an annotation tool, in ADE20K's, or both.
        reduce_zero_label: Whether label 0 is ignored and classes start at 1.
        crowds: Whether annotations with ``iscrowd: 1`` are objects.

    Attributes:
        sources: The parts.
        description: The data set as training describes it.

    Raises:
        DataError: If its annotations cannot be used at all.
    """

    def __init__(self, data: str, *, reduce_zero_label: bool = False, crowds: Crowds = "ignore") -> None:
        self.sources: dict[str, Source] = {}
        descriptions = []
        contents = contents_of(data)
        if "pixels" not in contents or "objects" in contents:
            objects = open_coco(data, crowds=crowds)
            descriptions.append(objects.description())
            if objects.train is not None:
                self.sources["train, objects"] = objects.train
            self.sources["val, objects"] = objects.validation
        if "pixels" in contents:
            labels = open_segmentation(data, reduce_zero_label=reduce_zero_label)
            descriptions.append(labels.description())
            if labels.train is not None:
                self.sources["train, pixels"] = labels.train
            self.sources["val, pixels"] = labels.validation
        self.description = joined(descriptions)

    @property
    def steps(self) -> int:
        """Number of images to decode."""
        return sum(len(source) for source in self.sources.values())

    def run(self, workers: int = 0, advance: Callable[[int], None] = lambda count: None) -> DenseDataReport:
        """Decode every image with its labels or masks.

        Args:
            workers: Worker processes; 0 for this one.
            advance: Called with the number of images just checked.
        """
        tasks = [Faults(partial(_fault, source), len(source)) for source in self.sources.values()]
        faults = iter(in_order(tasks, workers, advance))
        broken = {}
        for source in self.sources.values():
            broken.update({source.name(index): fault for index in range(len(source)) if (fault := next(faults))})
        parts = {name: (len(source), _objects(source)) for name, source in self.sources.items()}
        return DenseDataReport(parts, self.description.findings.lines(), broken, self.description)


def _fault(source: Source, index: int) -> str | None:
    try:
        source.load(index)
        if isinstance(source, SegmentationSource):
            source.labels(index)
        else:
            source.instances(index).masks(_MASK_SIZE, empty=True)
    except BadImageError as error:
        return error.reason if error.path == source.name(index) else str(error)  # e.g. of its labels
    return None


def _described(labels: SegmentationData) -> DataDescription:
    """The description of images with labels of pixels."""
    if hasattr(labels, "description"):
        found: DataDescription = labels.description()
        return found
    return DataDescription("ADE20K", (), labels.validation.findings)


def _objects(source: Source) -> dict[str, int]:
    if isinstance(source, SegmentationSource):
        return {}
    counts = Counter(source.annotations.labels.tolist())
    return {name: counts[label] for label, name in enumerate(source.class_names)}
