"""The paper's tables as rows of text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from transxnet.research.tables import LEGEND, Figure, Line, PaperTable

_COSTS = ("#F paper", "ours", "diff.", "all", "#P paper", "ours", "diff.")
_LONG = ("table", "row", "network", "task", "quantity", "unit", "paper", "ours", "difference", "note")


def headings(table: PaperTable) -> list[str]:
    """Of the columns of :func:`cells`; the first two hold words, the others numbers."""
    return ["network", "task", *_COSTS, *(heading for heading, _ in table.columns)]


def cells(table: PaperTable) -> list[list[str]]:
    """A row of text for each line, "-" where there is no number, a star where one is a misprint."""
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
    """What stands below the table: its notes, then what the stars mean."""
    stars = [f"* {line.label}: {_reason(line)}" for line in table.lines if _disagrees(line)]
    return [*table.notes, *stars]


def to_markdown(tables: Sequence[PaperTable]) -> str:
    """Headings and pipe tables."""
    text = []
    for table in tables:
        names = headings(table)
        rows = [names, ["---", "---", *["---:"] * (len(names) - 2)], *cells(table)]
        body = "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)
        notes = "".join(f"\n\n{_escaped(note)}" for note in footnotes(table))
        text.append(f"## {table.name}: {table.title}\n\n{body}{notes}\n")
    return "\n".join([*text, f"{LEGEND}\n"])


def to_csv(tables: Sequence[PaperTable]) -> str:
    """One number a line, the same columns for every table."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _LONG, lineterminator="\n")
    writer.writeheader()
    for record in _records(tables):
        writer.writerow({name: "" if value is None else value for name, value in record.items()})
    return stream.getvalue()


def to_json(tables: Sequence[PaperTable]) -> str:
    """The records of the CSV, and what holds for them all."""
    return json.dumps({"legend": LEGEND, "numbers": list(_records(tables))}, indent=2, ensure_ascii=False) + "\n"


def _records(tables: Sequence[PaperTable]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for line in table.lines:
            start = (table.number, line.label, line.network, line.task)
            for quantity, unit, figure in (("macs", "G", line.macs), ("parameters", "M", line.parameters)):
                difference = None if figure.difference is None else round(figure.difference, 3)
                note = "" if figure.agrees else _reason(line)
                numbers = (_number(figure.paper), figure.ours, difference, note)
                yield dict(zip(_LONG, (*start, quantity, unit, *numbers), strict=True))
            if line.all_macs is not None:
                yield dict(zip(_LONG, (*start, "all_macs", "G", None, line.all_macs, None, ""), strict=True))
            for name, value in line.accuracy.items():
                yield dict(zip(_LONG, (*start, name, "%", _number(value), None, None, ""), strict=True))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(figure: Figure, line: Line) -> tuple[str, str, str]:
    star = "" if figure.agrees else "*"
    return (
        "-" if figure.paper is None else f"{figure.paper}{star}",
        "-" if figure.ours is None else f"{figure.ours:.3f}",
        "-" if figure.difference is None else f"{figure.difference:+.3f}",
    )


def _joined(line: Line, names: Sequence[str]) -> str:
    return " ".join(str(line.accuracy[name]) for name in names if name in line.accuracy) or "-"


def _disagrees(line: Line) -> bool:
    return not (line.macs.agrees and line.parameters.agrees)


def _reason(line: Line) -> str:
    return line.misprint or "ours does not round to the printed number, for no known reason."


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
