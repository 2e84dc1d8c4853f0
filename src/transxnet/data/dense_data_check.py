"""Whether every image of a detection or segmentation data set can be used, and its annotations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from transxnet.data.coco import CocoSource, open_coco
from transxnet.data.data_set_check import Faults, in_order
from transxnet.data.images import BadImageError
from transxnet.data.names import entries_of, is_folder
from transxnet.data.segmentation import SegmentationSource, open_segmentation
from transxnet.data.splits import TRAIN, part_folder
from transxnet.files import user_path

Source = CocoSource | SegmentationSource

_CHECKED = (1, 1)  # pixels that are kept of a mask when all that counts is whether it can be decoded


@dataclass(frozen=True)
class DenseFindings:
    """What is in a data set with annotations, and what is wrong with it.

    Attributes:
        parts: For each part, its number of images and, with boxes, of each class's objects.
        annotations: What was wrong with annotations, in lines; they are dropped or mended.
        broken: Name of and reason for each image that cannot be used.
    """

    parts: Mapping[str, tuple[int, Mapping[str, int]]]
    annotations: list[str]
    broken: Mapping[str, str]


def is_annotated(data: str) -> bool:
    """Whether a folder has annotations of boxes or of pixels."""
    root = user_path(data)
    if root.suffix == ".json" or os.path.lexists(root / "annotations"):
        return True
    return is_folder(root) and any(os.path.lexists(path / "_annotations.coco.json") for path in entries_of(root))


class DenseCheck:
    """A data set with annotations that is to be checked.

    Args:
        data: A folder in COCO's layout, in ADE20K's, or both.
        reduce_zero_label: Whether a label of 0 means "ignored", and the classes count from 1.

    Raises:
        DataError: If its annotations cannot be used at all.
    """

    def __init__(self, data: str, *, reduce_zero_label: bool = False) -> None:
        self.sources: dict[str, Source] = {}
        folder = user_path(data) / "annotations"
        objects_too = is_folder(folder) and any(path.suffix == ".json" for path in entries_of(folder))
        pixels = is_folder(folder) and (part_folder(folder, TRAIN) is not None or not objects_too)
        if not pixels or objects_too:
            objects = open_coco(data)
            if objects.train is not None:
                self.sources["train, objects"] = objects.train
            self.sources["val, objects"] = objects.validation
        if pixels:
            labels = open_segmentation(data, reduce_zero_label=reduce_zero_label)
            if labels.train is not None:
                self.sources["train, pixels"] = labels.train
            self.sources["val, pixels"] = labels.validation

    @property
    def steps(self) -> int:
        """Images to decode."""
        return sum(len(source) for source in self.sources.values())

    def run(self, workers: int = 0, advance: Callable[[int], None] = lambda count: None) -> DenseFindings:
        """Decode every image with its labels or masks.

        Args:
            workers: Processes that do so; with 0 this one does.
            advance: Called with the number of steps done, as they are.
        """
        tasks = [Faults(partial(_fault, source), len(source)) for source in self.sources.values()]
        faults = iter(in_order(tasks, workers, advance))
        broken = {}
        for source in self.sources.values():
            broken.update({source.name(place): fault for place in range(len(source)) if (fault := next(faults))})
        lines = dict.fromkeys(line for source in self.sources.values() for line in source.findings.lines())
        parts = {name: (len(source), _objects(source)) for name, source in self.sources.items()}
        return DenseFindings(parts, list(lines), broken)


def _fault(source: Source, place: int) -> str | None:
    try:
        source.load(place)
        if isinstance(source, SegmentationSource):
            source.labels(place)
        elif source.has_masks:
            source.instances(place).masks(_CHECKED)
    except BadImageError as error:
        return error.reason if error.path == source.name(place) else str(error)  # its labels, say
    return None


def _objects(source: Source) -> dict[str, int]:
    if isinstance(source, SegmentationSource):
        return {}
    counts = Counter(source.annotations.labels.tolist())
    return {name: counts[label] for label, name in enumerate(source.class_names)}
