"""What was found in a data set: ``train`` and ``data check`` print the same description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transxnet.data.findings import Findings, merged
from transxnet.data.names import listed
from transxnet.text import counted

_LISTED = 10  # classes in a line


@dataclass(frozen=True)
class PartDescription:
    """Images of one part of a data set.

    Attributes:
        name: "training", "validation", or "evaluated" for images to evaluate a network on.
        origin: Where they come from: a folder or file, or how they were held out.
        images: Number of images.
        unit: Unit of the counts.
        counts: Images, objects or labelled pixels of each class.
    """

    name: str
    origin: str
    images: int
    unit: Literal["images", "objects", "pixels"]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DataDescription:
    """Layout, parts and findings of a data set.

    Attributes:
        layout: Name of the layout, such as "class folders" or "COCO".
        parts: The parts, training images first.
        findings: Problems and remarks.
    """

    layout: str
    parts: tuple[PartDescription, ...]
    findings: Findings = field(default_factory=Findings)

    def lines(self) -> list[str]:
        """The description for printing: one line for the layout, one for each part, then what is absent and found."""
        lines = [f"layout: {self.layout}"]
        for part in self.parts:
            present = {name: count for name, count in part.counts.items() if count}
            units = "" if part.unit == "images" or not part.counts else f", {sum(present.values()):,} {part.unit}"
            classes = listed([f"{name} {count:,}" for name, count in present.items()], _LISTED)
            of_classes = f" of {counted(len(part.counts), 'class')}" if part.counts else ""
            shown = f" ({classes})" if classes else ""
            lines.append(f"{part.name}: {counted(part.images, 'image')}{units}{of_classes}, {part.origin}{shown}")
            if absent := [name for name in part.counts if name not in present]:
                lines.append(f"  without {part.unit}: {listed(absent, _LISTED)}")
        return lines + self.findings.lines()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = [{**vars(part), "counts": dict(part.counts)} for part in self.parts]
        return {
            "layout": self.layout,
            "parts": parts,
            "problems": dict(self.findings.counts),
            "examples": {kind: list(names) for kind, names in self.findings.examples.items()},
            "remarks": list(self.findings.remarks),
        }


def joined(descriptions: Sequence[DataDescription]) -> DataDescription:
    """One description of a folder that holds several data sets, such as boxes and pixels of the same images."""
    layouts = dict.fromkeys(one.layout for one in descriptions)
    parts = tuple(part for one in descriptions for part in one.parts)
    return DataDescription(" and ".join(layouts), parts, merged([one.findings for one in descriptions]))
