"""``transxnet tables``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transxnet.cli.parsing import CommandParser, add_force, image_progress
from transxnet.cli.streams import say, table_console
from transxnet.console import SafeConsole, Table
from transxnet.errors import ConfigError
from transxnet.files import write_text
from transxnet.output_paths import output_file
from transxnet.research.table_formats import cells, footnotes, headings, to_csv, to_json, to_markdown
from transxnet.research.tables import LEGEND, PaperTable, paper_tables, table_number, with_counts

_ABOUT = """\
Print the paper's tables beside our own counts: parameters and multiply-accumulate operations of
each of our networks, and their difference from the published numbers. Other authors' numbers and
all accuracies are the paper's; none was measured here. Without a number, all nine tables."""
_EXAMPLES = """\
  transxnet tables
  transxnet tables 5 6
  transxnet tables IX --format markdown
  transxnet tables --format csv --out tables.csv
"""
_FORMATS = {"markdown": to_markdown, "csv": to_csv, "json": to_json}
_SUFFIXES = {".md": "markdown", ".csv": "csv", ".json": "json"}


def run(arguments: Sequence[str]) -> int:
    """Parse, count and print."""
    parser = CommandParser("tables", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet tables [NUMBER ...] [options]"
    parser.add_argument("numbers", type=str, nargs="*", metavar="NUMBER", help="1 to 9, or I to IX (default: all)")
    parser.add_argument(
        "--format", type=str, help="terminal (default), markdown, csv or json; with --out, by its suffix"
    )
    parser.add_argument("--out", type=str, help="write to a .md, .csv or .json file instead of the terminal")
    add_force(parser)
    options = parser.parse(arguments)
    wanted = _format(options.format, options.out)
    out = output_file(options.out, force=options.force) if options.out is not None else None
    numbers = sorted({table_number(number) for number in options.numbers}) or range(1, 10)
    tables = _counted(paper_tables(numbers))
    if wanted == "terminal":
        _print(tables)
    elif out:
        write_text(out, _FORMATS[wanted](tables))
        say(f"{options.out} written")
    else:
        sys.stdout.write(_FORMATS[wanted](tables))
    return 0


def _format(name: str | None, out: str | None) -> str:
    """The output format; raises ConfigError if it is unknown."""
    if name is not None and name not in ("terminal", *_FORMATS):
        raise ConfigError(f"--format is terminal, {', '.join(list(_FORMATS)[:-1])} or json, not {name!r}")
    if out is None:
        return name or "terminal"
    if name == "terminal":
        raise ConfigError("--format terminal goes to the terminal; leave --out out, or choose markdown, csv or json")
    if name is None and Path(out).suffix not in _SUFFIXES:
        raise ConfigError(f"--out ends in .md, .csv or .json, not {out}; or give --format")
    return name or _SUFFIXES[Path(out).suffix]


def _counted(tables: Sequence[PaperTable]) -> list[PaperTable]:
    with image_progress() as progress:
        task = progress.add_task("counting networks", total=None)
        return with_counts(tables, lambda done, total: progress.update(task, completed=done, total=total))


def _print(tables: Sequence[PaperTable]) -> None:
    console = table_console()
    for table in tables:
        console.print(f"{table.name}: {table.title}", style="bold", markup=False)
        console.print(_terminal_table(table))
        for note in footnotes(table):
            _print_text(console, note)
        console.print()
    _print_text(console, LEGEND)


def _print_text(console: SafeConsole, text: str) -> None:
    console.print(text, markup=False, width=min(console.width, 98), style="dim")


def _terminal_table(table: PaperTable) -> Table:
    """The table, without the column of tasks if all are the same."""
    names, rows = headings(table), cells(table)
    one_task = len({line.task for line in table.lines}) == 1
    shown = Table(box=None, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(names):
        if index != 1 or not one_task:
            shown.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    last = ""
    for row in rows:
        label, task, *numbers = row
        shown.add_row("" if label == last else label, *([] if one_task else [task]), *numbers)
        last = label
    return shown
