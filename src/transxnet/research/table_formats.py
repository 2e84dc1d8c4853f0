"""The paper's tables as rows of text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from transxnet.research.tables import LEGEND, Line, PaperTable, PaperValue

_COSTS = ("#F paper", "ours", "diff.", "all", "#P paper", "ours", "diff.")
_LONG = ("table", "row", "network", "task", "quantity", "unit", "paper", "ours", "difference", "note")


def headings(table: PaperTable) -> list[str]:
    """Headings of the columns of :func:`cells`; the first two are text, the others numbers."""
    return ["network", "task", *_COSTS, *(heading for heading, _ in table.columns)]


def cells(table: PaperTable) -> list[list[str]]:
    """A row of strings for each line, with "-" for missing numbers and a star for misprints."""
    return [
        [
            line.label,
            line.task,
            *_texts(line.macs, line),
            "-" if line.all_macs is None else f"{line.all_macs:.3f}",
            *_texts(line.parameters, line),
            *(_joined(line, names) for _, names in table.columns),
        ]
        for line in table.lines
    ]


def footnotes(table: PaperTable) -> list[str]:
    """Notes below the table, then explanations of the stars."""
    stars = [f"* {line.label}: {_reason(line)}" for line in table.lines if _disagrees(line)]
    return [*table.notes, *stars]


def to_markdown(tables: Sequence[PaperTable]) -> str:
    """Markdown headings and tables."""
    text = []
    for table in tables:
        names = headings(table)
        rows = [names, ["---", "---", *["---:"] * (len(names) - 2)], *cells(table)]
        body = "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)
        notes = "".join(f"\n\n{_escaped(note)}" for note in footnotes(table))
        text.append(f"## {table.name}: {table.title}\n\n{body}{notes}\n")
    return "\n".join([*text, f"{LEGEND}\n"])


def to_csv(tables: Sequence[PaperTable]) -> str:
    """CSV with one number per line, and the same columns for all tables."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _LONG, lineterminator="\n")
    writer.writeheader()
    for record in _records(tables):
        writer.writerow({name: "" if value is None else value for name, value in record.items()})
    return stream.getvalue()


def to_json(tables: Sequence[PaperTable]) -> str:
    """JSON with the CSV's records and the legend."""
    return json.dumps({"legend": LEGEND, "numbers": list(_records(tables))}, indent=2, ensure_ascii=False) + "\n"


def _records(tables: Sequence[PaperTable]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for line in table.lines:
            start = (table.number, line.label, line.network, line.task)
            for quantity, unit, value in (("macs", "G", line.macs), ("parameters", "M", line.parameters)):
                difference = None if value.difference is None else round(value.difference, 3)
                note = "" if value.agrees else _reason(line)
                numbers = (_number(value.paper), value.ours, difference, note)
                yield dict(zip(_LONG, (*start, quantity, unit, *numbers), strict=True))
            if line.all_macs is not None:
                yield dict(zip(_LONG, (*start, "all_macs", "G", None, line.all_macs, None, ""), strict=True))
            for name, percent in line.accuracy.items():
                yield dict(zip(_LONG, (*start, name, "%", _number(percent), None, None, ""), strict=True))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(value: PaperValue, line: Line) -> tuple[str, str, str]:
    star = "" if value.agrees else "*"
    return (
        "-" if value.paper is None else f"{value.paper}{star}",
        "-" if value.ours is None else f"{value.ours:.3f}",
        "-" if value.difference is None else f"{value.difference:+.3f}",
    )


def _joined(line: Line, names: Sequence[str]) -> str:
    return " ".join(str(line.accuracy[name]) for name in names if name in line.accuracy) or "-"


def _disagrees(line: Line) -> bool:
    return not (line.macs.agrees and line.parameters.agrees)


def _reason(line: Line) -> str:
    return line.misprint or "ours does not round to the printed number; the reason is unknown."


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
