"""Figure 2 of the paper: accuracy of networks against their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from matplotlib.figure import Figure

from transxnet.plotting.style import BLUE, COLUMN, GREEN, ORANGE, RED, annotate, print_style, tidy

if TYPE_CHECKING:
    from transxnet.research.accuracy import Published

Cost = Literal["macs", "params"]

_OURS = "TransXNet"
_LABELS = {"macs": "MACs at 224 × 224 (G; the paper's “FLOPs”)", "params": "parameters (M)"}
_KINDS = {"CNN": (BLUE, "s"), "Transformer": (ORANGE, "o"), "hybrid": (GREEN, "^")}


def draw_accuracies(rows: Sequence[Published], cost: Cost = "macs") -> Figure:
    """Plot top-1 accuracy against MACs or parameters, with a line for each family of networks."""

    def cost_of(row: Published) -> float:
        return row.macs if cost == "macs" else row.params

    with print_style():
        figure = Figure(figsize=(COLUMN, 3.1), layout="constrained")
        figure.suptitle(f"ImageNet-1K, {len(rows)} networks of the paper's Table II", fontsize=7)
        axes = figure.subplots()
        for family in dict.fromkeys(row.family for row in rows):
            members = sorted((row for row in rows if row.family == family), key=cost_of)
            ours = family == _OURS
            axes.plot(
                [cost_of(row) for row in members], [row.top1 for row in members], "-", zorder=2 if ours else 1,
                color=RED if ours else "0.87", linewidth=1.6 if ours else 0.6,
            )  # fmt: skip
        for kind, (colour, marker) in _KINDS.items():
            chosen = [row for row in rows if row.kind == kind and row.family != _OURS]
            axes.scatter([cost_of(row) for row in chosen], [row.top1 for row in chosen], s=11, marker=marker,
                         color=colour, label=kind, zorder=3)  # fmt: skip
        ours_rows = [row for row in rows if row.family == _OURS]
        axes.scatter([cost_of(row) for row in ours_rows], [row.top1 for row in ours_rows], s=60, marker="*", color=RED,
                     label=f"{_OURS} (hybrid)", zorder=4)  # fmt: skip
        others = [row for row in rows if row.family != _OURS]
        lowest = sorted(row.top1 for row in rows)[1]
        axes.set_ylim(max(lowest - 0.6, 77), max(row.top1 for row in rows) + 0.6)
        axes.set_xlim(0, 1.05 * max(map(cost_of, rows)))
        axes.set(xlabel=_LABELS[cost], ylabel="top-1 accuracy (%), as published")
        axes.grid(alpha=0.25, linewidth=0.5)
        tidy(axes)
        axes.legend(frameon=False, loc="lower right")
        shown = [row for row in [*ours_rows, *others] if row.top1 >= axes.get_ylim()[0]]
        hidden = [row for row in others if row not in shown]
        if hidden:
            below = ", ".join(f"{row.model} {row.top1}" for row in hidden)
            axes.annotate(f"below: {below}", (0.99, 0.3), xycoords="axes fraction", ha="right", fontsize=6)
        annotate(axes, [(cost_of(row), row.top1, row.model) for row in shown], bold=_OURS)
    return figure
