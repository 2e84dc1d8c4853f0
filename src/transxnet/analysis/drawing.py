"""What the figures have in common: type that fits a column, and files for screen and print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from transxnet.errors import ConfigError
from transxnet.files import replacing

COLUMN, PAGE = 3.5, 7.2
"""Widths of a column and of a page of a journal, in inches."""

_FORMATS = (".pdf", ".png", ".svg")
_STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # type that a publisher's tools can read
}


@contextmanager
def print_style() -> Iterator[None]:
    """Figures made in here have the type sizes of a printed column."""
    with mpl.rc_context(_STYLE):
        yield


def figure_files(out: str) -> list[Path]:
    """The files that a figure is written to: the one named, or PNG and PDF for a name without an ending.

    Raises:
        ConfigError: If the ending is none of .png, .pdf and .svg.
    """
    path = Path(out).expanduser()
    if not path.suffix:
        return [path.with_suffix(".png"), path.with_suffix(".pdf")]
    if path.suffix not in _FORMATS:
        raise ConfigError(f"a figure ends in {', '.join(_FORMATS)}, or in nothing for .png and .pdf, not {out}")
    return [path]


def save_figure(figure: Figure, files: list[Path]) -> None:
    """Write a figure to each of the files, at 300 dots an inch where it has dots."""
    with print_style():
        for path in files:
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=300)
