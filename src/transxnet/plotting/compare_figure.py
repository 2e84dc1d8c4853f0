"""Figure of networks trained under one budget: runs, mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from transxnet.plotting.style import BLUE, COLUMN, ORANGE, print_style

if TYPE_CHECKING:
    from transxnet.research.compare import Comparison


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw a row for each network: runs as dots, mean, and one standard deviation on both sides."""
    contenders = comparison.contenders
    with print_style():
        figure = Figure(figsize=(COLUMN, 0.75 + 0.24 * len(contenders)), layout="constrained")
        axes = figure.subplots()
        for row, one in enumerate(contenders):
            colour = ORANGE if row == 0 else BLUE
            axes.errorbar(100 * one.mean, row, xerr=100 * (one.deviation or 0), fmt="|", color=colour, capsize=2, ms=9)
            axes.plot(
                [100 * score for score in one.scores], [row] * len(one.scores), "o", color=colour, ms=3, alpha=0.6
            )
        axes.axvline(100 * contenders[0].mean, color=ORANGE, lw=0.6, ls=":")
        prefix = "transxnet_"
        axes.set_yticks(range(len(contenders)), [one.name.removeprefix(prefix) for one in contenders])
        axes.invert_yaxis()
        recipe, seeds = comparison.recipe, comparison.seeds
        # Labels of the figure, since the axes are too narrow beside long names.
        figure.supxlabel("held-out top-1 (%): runs, mean and deviation", fontsize="medium")
        figure.suptitle(
            f"{recipe.data}, {recipe.total_epochs} epochs of {comparison.images[0]} images, {len(seeds)} seeds each",
            fontsize="medium",
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    return figure
