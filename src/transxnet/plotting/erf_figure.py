"""Figures 1 and 6 of the paper: effective receptive fields side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transxnet.plotting.fonts import drawable, families_for
from transxnet.plotting.style import COLUMN, PAGE, print_style, shortened

if TYPE_CHECKING:
    from transxnet.research.erf import ReceptiveField

_DECADES = 4
_ZOOM = 0.25


def draw_fields(rows: Sequence[Sequence[ReceptiveField]], title: str) -> Figure:
    """Draw heat maps of fields, and the enlarged middle of each network's last one.

    Colours are logarithmic, over four decades below the map's largest value; white squares contain half
    of the contribution.

    Args:
        rows: The fields of each network, for the same stages.
        title: Title of the figure.
    """
    cells = [[*((stage, False) for stage in row), (row[-1], True)] for row in rows]
    if len(rows[0]) == 1 and len(rows) > 1:  # one stage: networks side by side, as in figure 6
        cells = [list(column) for column in zip(*cells, strict=True)]
    height, width = len(cells), len(cells[0])
    side = min(1.7, (PAGE if width > 2 else COLUMN) / width)
    size = (max(COLUMN, side * width), (side + 0.6) * height + 0.7 + 0.13 * title.count("\n"))
    with print_style():
        figure = Figure(figsize=size, layout="constrained")
        lines = "\n".join(map(drawable, title.splitlines()))
        figure.suptitle(lines, family=families_for(title), parse_math=False)
        grid = figure.subplots(height, width, squeeze=False)
        for axes, (found, zoomed) in zip(grid.flat, (cell for row in cells for cell in row), strict=True):
            picture = _draw(axes, found, zoomed)
        bar = figure.colorbar(picture, ax=grid, location="bottom", aspect=40, pad=0.02, shrink=0.9)
        bar.set_ticks(decades := [10.0**-power for power in range(_DECADES + 1)], labels=[f"{v:g}" for v in decades])
        bar.set_label("contribution, relative to the largest; the white square contains half of it")
    return figure


def _draw(axes: Axes, found: ReceptiveField, zoomed: bool) -> Any:
    values = found.values / max(float(found.values.max()), np.finfo(float).tiny)
    height, width = values.shape
    picture = axes.imshow(
        np.clip(values, 10.0**-_DECADES, 1), cmap="viridis", norm=LogNorm(10.0**-_DECADES, 1), interpolation="nearest"
    )
    side = next(side for share, side, _ in found.squares() if share == 0.5)
    rows, columns = found.square(side)
    axes.add_patch(
        Rectangle((columns.start - 0.5, rows.start - 0.5), side, side, fill=False, edgecolor="white", linewidth=0.8)
    )
    axes.set(xticks=[], yticks=[])
    if zoomed:
        row, column = found.middle
        reach_x, reach_y = width * _ZOOM / 2, height * _ZOOM / 2
        axes.set(xlim=(column - reach_x, column + reach_x), ylim=(row + reach_y, row - reach_y))
        axes.set_title(f"stage {found.stage}, middle\nenlarged {round(1 / _ZOOM)} ×")
    else:
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
        axes.set_title(f"{shortened(found.network.name, 26)}\nstage {found.stage}", parse_math=False)
        axes.set_xlabel(_sides(found), fontsize=6, labelpad=2)
    return picture


def _sides(found: ReceptiveField) -> str:
    squares = found.squares()
    shares = "/".join(f"{share:.0%}"[:-1] for share, *_ in squares)
    return f"{shares} % in\n{' / '.join(str(side) for _, side, _ in squares)} px"
