"""Figure 7 of the paper: images with the evidence for a class."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from transxnet.plotting.fonts import drawable, families_for
from transxnet.plotting.style import COLUMN, PAGE, print_style, shortened

if TYPE_CHECKING:
    from transxnet.research.gradcam import ActivationMap

_MAP = "viridis"


def draw_activations(rows: Sequence[Sequence[ActivationMap]], title: str) -> Figure:
    """Draw a row for each image: the image, then overlaid maps for each network and stage.

    Args:
        rows: The maps of each image, for the same networks and stages.
        title: Title of the figure.
    """
    height, width = len(rows), 1 + len(rows[0])
    side = min(1.7, (COLUMN if width < 4 else PAGE) / width)
    size = (max(COLUMN, side * width), (side + 0.2) * height + 1.15 + 0.13 * title.count("\n"))
    wrap = max(12, round(side * 15))
    with print_style():
        figure = Figure(figsize=size, layout="constrained")
        lines = "\n".join(map(drawable, title.splitlines()))
        figure.suptitle(lines, family=families_for(title), parse_math=False)
        grid = figure.subplots(height, width, squeeze=False)
        grid[0][0].set_title("input")
        for axes, row in zip(grid, rows, strict=True):
            axes[0].imshow(row[0].picture)
            for cell, found in zip(axes[1:], row, strict=True):
                cell.imshow(_overlay(found))
                class_name = textwrap.shorten(drawable(found.class_name), wrap, placeholder="…")
                families = families_for(found.class_name)
                label = f"{class_name}: {found.probability:.1%}"
                cell.set_xlabel(label, fontsize=6.5, family=families, parse_math=False, labelpad=2)
        for cell, found in zip(grid[0][1:], rows[0], strict=True):
            name = shortened(found.network.name, wrap + 4)
            cell.set_title(f"{name}\n{found.layer}", parse_math=False)
        for axis in grid.flat:
            axis.set(xticks=[], yticks=[])
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), _MAP)
        bar = figure.colorbar(colours, ax=grid, location="bottom", aspect=40, pad=0.02, shrink=0.9)
        bar.set_label("evidence for the class, relative to the map's largest")
    return figure


def _overlay(found: ActivationMap) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The coloured map over the grey image, so that the image's colours cannot be mistaken for the map's."""
    grey = found.picture @ np.array([0.299, 0.587, 0.114])
    colours = mpl.colormaps[_MAP](found.values)[..., :3]
    overlay: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = 0.4 * grey[..., None] + 0.6 * colours
    return overlay
