"""The part of rich that the commands use, as plain text: for installations without it."""

from __future__ import annotations

import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Self

from transxnet.text import printable

_MARKUP = re.compile(r"\\\[|\[/?[a-z ]*\]")


def escape(text: str) -> str:
    """Protect brackets from being read as markup."""
    return text.replace("[", "\\[")


def _plain(text: str) -> str:
    """A text without markup."""
    return _MARKUP.sub(lambda match: "[" if match[0] == "\\[" else "", text)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and the side that cells are aligned to."""

    header: str = ""
    justify: str = "left"
    overflow: str = "fold"
    no_wrap: bool = True


class Table:
    """A table without borders; columns are as wide as their widest cell."""

    def __init__(
        self, *headers: str | Column, pad_edge: bool = True, collapse_padding: bool = False, **settings: Any
    ) -> None:
        self.title: str | None = None
        self.columns = [one if isinstance(one, Column) else Column(one) for one in headers]
        self.rows: list[tuple[str, ...]] = []
        self._gap = " " if collapse_padding else "  "
        self._edge = " " if pad_edge else ""

    def add_column(self, header: str = "", **settings: Any) -> None:
        self.columns.append(Column(header, **settings))

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)

    def lines(self) -> Iterator[str]:
        """The lines of the table."""
        if self.title:
            yield printable(self.title)
        rows = [[printable(column.header) for column in self.columns]]
        rows += [[printable(_plain(cell)) for cell in row] + [""] * (len(self.columns) - len(row)) for row in self.rows]
        widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
        for row in rows:
            cells = []
            for cell, width, column in zip(row, widths, self.columns, strict=True):
                space = " " * (width - _width(cell))
                cells.append(space + cell if column.justify == "right" else cell + space)
            yield (self._edge + self._gap.join(cells)).rstrip()


class PlainConsole:
    """Prints texts and tables, with unsafe characters escaped."""

    is_terminal = False
    width = 80

    def __init__(
        self, *, stderr: bool = False, quiet: bool = False, file: IO[str] | None = None, **settings: Any
    ) -> None:
        self._stderr, self._quiet, self._file = stderr, quiet, file

    def print(self, item: str | Table = "", *, markup: bool = True, width: int | None = None, **settings: Any) -> None:
        if self._quiet:
            return
        if isinstance(item, Table):
            lines = list(item.lines())
        else:
            text = printable(_plain(item) if markup else item)
            lines = textwrap.wrap(text, width) if width else [text]
        stream = self._file or (sys.stderr if self._stderr else sys.stdout)
        stream.write("".join(f"{line}\n" for line in lines))

    @contextmanager
    def status(self, text: str) -> Iterator[Any]:
        """Nothing is shown of what is being done."""
        yield Progress()


class Progress:
    """A progress bar that is not shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add_task(self, description: str, total: float | None = None) -> int:
        return 0

    def advance(self, task: int, count: float = 1) -> None:
        pass

    def update(self, *task: object, **settings: Any) -> None:
        pass

    def track(self, items: Iterable[Any], **settings: Any) -> Iterator[Any]:
        return iter(items)
