"""Common style of figures: font sizes for a column, and files for screen and print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from transxnet.errors import ConfigError
from transxnet.files import replacing, user_path

COLUMN, PAGE = 3.5, 7.2
"""Widths of a journal's column and page in inches."""

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's palette, which colour-blind people can distinguish."""

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
    "pdf.fonttype": 42,  # TrueType fonts, which publishers require
}

_LABEL_POSITIONS = [(5, 0, "left"), (-5, 0, "right"), (0, 7, "center"), (0, -7, "center")]
_LABEL_POSITIONS += [(4, 6, "left"), (4, -6, "left"), (-4, 6, "right"), (-4, -6, "right")]
"""Candidate positions of a label: offset from the marker in points, and alignment."""


@contextmanager
def print_style() -> Iterator[None]:
    """Use the font sizes of a printed column inside the context."""
    with mpl.rc_context(_STYLE):
        yield


def figure_files(out: str) -> list[Path]:
    """The files of a figure: the given one, or PNG and PDF for a name without suffix.

    Raises:
        ConfigError: If the suffix is not .png, .pdf or .svg.
    """
    path = user_path(out)
    if not path.suffix:
        return [path.with_suffix(".png"), path.with_suffix(".pdf")]
    if path.suffix not in _FORMATS:
        raise ConfigError(f"a figure needs the suffix {', '.join(_FORMATS)}, or none for .png and .pdf, not {out}")
    return [path]


def save_figure(figure: Figure, files: list[Path]) -> None:
    """Write a figure to each of the files, with 300 dpi for raster formats."""
    with print_style():
        for path in files:
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=300)


def shortened(name: str, limit: int) -> str:
    """A name truncated to a number of characters."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def tidy(axes: Axes) -> None:
    """Remove the upper and right spines."""
    axes.spines[["top", "right"]].set_visible(False)


def annotate(axes: Axes, points: Sequence[tuple[float, float, str]], bold: str = "") -> None:
    """Label points without overlaps; labels without room are left out.

    Args:
        axes: Axes with their final limits.
        points: x, y and label, the important ones first; an empty label only reserves the marker's area.
        bold: Prefix of labels in bold type.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # computes the layout
    scale = figure.dpi / 72
    markers = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken: list[Bbox] = []
    halo = [withStroke(linewidth=1.5, foreground="white")]
    area = axes.get_window_extent()
    for own, (x, y, name) in enumerate(points):
        others = [_around(marker[0], marker[1], 5 * scale) for index, marker in enumerate(markers) if index != own]
        weight = "bold" if bold and name.startswith(bold) else "normal"
        for across, up, side in _LABEL_POSITIONS if name else ():
            text = axes.annotate(name, (x, y), xytext=(across, up), textcoords="offset points", fontsize=6, ha=side,
                                 va="center", fontweight=weight, parse_math=False, path_effects=halo)  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
            if inside and not any(box.overlaps(other) for other in (*taken, *others)):
                taken.append(box)
                break
            text.remove()


def _around(x: float, y: float, reach: float) -> Bbox:
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)
