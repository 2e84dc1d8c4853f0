"""The paper's tables beside our counts.

Parameters and MACs of our networks are counted when a table is made. Everything else, all accuracies
included, is data from the paper and was not measured here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Literal

import torch
from torch import nn

from transxnet.ablation.rows import ROWS
from transxnet.config import VARIANTS
from transxnet.dense.create import create_detector, create_segmenter
from transxnet.dense.protocol import Detector, Segmenter
from transxnet.errors import ConfigError
from transxnet.research.complexity import DENSE, Complexity, complexity, detector_complexity
from transxnet.zoo import NETWORKS, create_model

ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
TITLES = (
    "variants of TransXNet",
    "classification of ImageNet-1K at 224 x 224",
    "detection and instance segmentation of COCO at 800 x 1280",
    "segmentation of ADE20K with Semantic FPN at 512 x 2048",
    "token mixers",
    "depthwise convolutions",
    "MS-FFN scales",
    "channel ratio between attention and convolution",
    "DPE, OSR and STE",
)
LEGEND = (
    "#F: G MACs by the paper's rule, which counts normalisations and biases but no product inside attention or dynamic "
    "convolution; all: all MACs of convolutions and matrix products. #P: M parameters. diff.: ours minus the paper's "
    "printed number. Accuracies are the paper's; none was measured here."
)

Task = Literal["ImageNet-1K", "ADE20K", "RetinaNet", "Mask R-CNN"]
_OURS = {"TransXNet-T": "transxnet_tiny", "TransXNet-S": "transxnet_small", "TransXNet-B": "transxnet_base"}
_TABLE_1 = {"TransXNet-T": ("1.8", "12.8"), "TransXNet-S": ("4.5", "26.9"), "TransXNet-B": ("8.3", "48.0")}
_BOX = (("AP 50 75", ("ap", "ap50", "ap75")), ("S M L", ("ap_s", "ap_m", "ap_l")))
_MASK = (("AP 50 75", ("ap", "ap50", "ap75")), ("mask 50 75", ("mask_ap", "mask_ap50", "mask_ap75")))


@dataclass(frozen=True)
class PaperValue:
    """A number in the paper, and ours.

    Attributes:
        paper: The number with its printed digits; None if the paper has none.
        ours: Our count; None for other authors' networks.
    """

    paper: Decimal | None
    ours: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.paper is None or self.ours is None else self.ours - float(self.paper)

    @property
    def agrees(self) -> bool:
        """Whether ours rounds to the paper's number; True if one is missing."""
        if self.paper is None or self.ours is None:
            return True
        return Decimal(repr(self.ours)).quantize(self.paper) == self.paper


@dataclass(frozen=True)
class Line:
    """A network on a task.

    Attributes:
        label: Its name in the paper.
        task: The task for costs and accuracies.
        macs: MACs by the paper's rule, in G.
        parameters: Parameters in M.
        accuracy: The paper's accuracies in per cent, by name.
        network: Registered name of the counted network; empty for other authors'.
        all_macs: All multiply-accumulate operations of our network, in G.
        misprint: Why a number that disagrees is a misprint.
    """

    label: str
    task: Task
    macs: PaperValue
    parameters: PaperValue
    accuracy: Mapping[str, Decimal]
    network: str = ""
    all_macs: float | None = None
    misprint: str = ""

    def counted(self, cost: Complexity) -> Line:
        """The line with our counts."""
        macs = replace(self.macs, ours=round(cost.paper_macs / 1e9, 3))
        parameters = replace(self.parameters, ours=round(cost.parameters / 1e6, 3))
        return replace(self, macs=macs, parameters=parameters, all_macs=round(cost.macs / 1e9, 3))


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or a part of one.

    Attributes:
        number: Number of the table, from 1 to 9.
        title: Subject of the table.
        columns: Headings of the accuracies, each with their names.
        lines: Lines in the paper's order.
        notes: Notes below the table.
    """

    number: int
    title: str
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The name, such as "Table IV"."""
        return f"Table {ROMAN[self.number - 1]}"


def table_number(text: str) -> int:
    """The number of a table given as "4" or "IV"; raises ConfigError if the paper has no such table."""
    names = {**{str(index + 1): index + 1 for index in range(9)}, **{name: i + 1 for i, name in enumerate(ROMAN)}}
    if text.upper() not in names:
        raise ConfigError(f"the paper has no table {text!r}; it has 1 to 9, also written I to IX")
    return names[text.upper()]


def paper_tables(numbers: Iterable[int]) -> list[PaperTable]:
    """The printed tables, without our counts; Table III in two parts, one per detector."""
    return [part for number in numbers for part in _printed(number)]


def with_counts(tables: Sequence[PaperTable], done: Callable[[int, int], None] | None = None) -> list[PaperTable]:
    """Add the costs of our networks, counted on PyTorch's meta device.

    Args:
        tables: From :func:`paper_tables`.
        done: Called after each count with the number of counts done, and of all counts.
    """
    counts = {(line.task, _first_name(line.network)) for table in tables for line in table.lines if line.network}
    for index, (task, name) in enumerate(sorted(counts)):
        _cost(task, name)
        if done:
            done(index + 1, len(counts))
    return [replace(table, lines=tuple(map(_counted, table.lines))) for table in tables]


def _counted(line: Line) -> Line:
    return line.counted(_cost(line.task, _first_name(line.network))) if line.network else line


def _first_name(name: str) -> str:
    """The first of several names of the same network, which is then counted once."""
    return next(known for known, config in NETWORKS.items() if config == NETWORKS[name])


@cache
def _cost(task: Task, name: str) -> Complexity:
    with torch.device("meta"):  # counting needs no weights
        network = _create(task, name)
    if isinstance(network, Detector):
        return detector_complexity(network)
    if isinstance(network, Segmenter):
        return complexity(network, (3, 512, 2048), DENSE)
    return complexity(network, (3, 224, 224))


def _create(task: Task, name: str) -> nn.Module:
    match task:
        case "ImageNet-1K":
            return create_model(name)
        case "ADE20K":
            return create_segmenter(backbone=name)
        case "RetinaNet":
            return create_detector("retinanet", backbone=name)
        case "Mask R-CNN":
            return create_detector("mask_rcnn", backbone=name)


def _printed(number: int) -> list[PaperTable]:
    title = TITLES[number - 1]
    if number == 1:
        lines = [_line(label, "ImageNet-1K", *cost) for label, cost in _TABLE_1.items()]
        return [PaperTable(1, title, (), tuple(lines), tuple(map(_settings, _OURS)))]
    if number == 2:
        columns = (("top-1", ("top1",)), ("V2 top-1", ("top1_v2",)))
        return [PaperTable(2, title, columns, _from_file(2, lambda row: "ImageNet-1K"))]
    if number == 3:
        both = _from_file(3, lambda row: "RetinaNet" if row["detector"] == "RetinaNet" else "Mask R-CNN")
        parts = (("RetinaNet", _BOX), ("Mask R-CNN", _MASK))
        return [
            PaperTable(3, f"{title}, {task}", columns, tuple(line for line in both if line.task == task))
            for task, columns in parts
        ]
    if number == 4:
        return [PaperTable(4, title, (("mIoU", ("miou",)),), _from_file(4, lambda row: "ADE20K"))]
    return [_ablation(number)]


def _ablation(number: int) -> PaperTable:
    lines = []
    for row in ROWS.values():
        if row.table == number:
            paper, network = row.paper, row.network()
            lines += [
                replace(
                    _line(row.label, "ImageNet-1K", paper.macs, paper.parameters, network, top1=paper.top1),
                    misprint=row.misprint,
                ),
                _line(row.label, "ADE20K", paper.dense_macs, paper.dense_parameters, network, miou=paper.miou),
            ]
    columns = (("top-1, mIoU", ("top1", "miou")),)
    return PaperTable(number, TITLES[number - 1], columns, tuple(lines))


def _from_file(number: int, task_of: Callable[[Mapping[str, str]], Task]) -> tuple[Line, ...]:
    others = ("model", "type", "detector", "input_size", "params_m", "macs_g")
    lines = []
    for row in paper_data(number):
        accuracy = {name: value for name, value in row.items() if name not in others}
        lines.append(_line(row["model"], task_of(row), row["macs_g"], row["params_m"], **accuracy))
    return tuple(lines)


def paper_data(number: int) -> list[dict[str, str]]:
    """Table 2, 3 or 4 as printed in the paper, with an empty string for a missing number.

    The column ``type`` of Table II (CNN, Transformer, hybrid) is not in the paper's table; it follows
    section II of the paper where that names the method.
    """
    text = files("transxnet.research").joinpath(f"data/table{number}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _line(
    label: str, task: Task, macs: str | float, params: str | float, network: str = "", **accuracy: str | float
) -> Line:
    known = {name: number for name, value in accuracy.items() if (number := _printed_number(value)) is not None}
    costs = (PaperValue(_printed_number(macs)), PaperValue(_printed_number(params)))
    return Line(label, task, *costs, known, network or _OURS.get(label, ""))


def _printed_number(value: str | float) -> Decimal | None:
    return Decimal(str(value)) if value != "" else None


def _settings(label: str) -> str:
    config = VARIANTS[_OURS[label]]
    names = {"blocks": config.depths, "channels": config.channels, "S": config.reductions, "H": config.heads,
             "K": config.kernel_sizes[:1], "G": config.attention_groups, "E": config.expansions}  # fmt: skip
    return f"{label}: " + ", ".join(f"{name} {'-'.join(map(str, values))}" for name, values in names.items())
