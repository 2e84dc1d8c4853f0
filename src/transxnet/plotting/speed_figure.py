"""Figure 8 of the paper: throughput of networks, and accuracy against throughput."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from transxnet.plotting.style import COLOURS, COLUMN, annotate, print_style, tidy

if TYPE_CHECKING:
    from transxnet.research.accuracy import Published
    from transxnet.research.bench import Speed

_MARKERS = "osD^vP*X"


def draw_speeds(groups: Sequence[Sequence[Speed]], title: str) -> Figure:
    """Draw bars of images per second for each batch and image size, with quartiles as whiskers.

    If the paper has accuracies of two or more of the networks, a panel plots them against throughput.

    Args:
        groups: Measurements, grouped by batch and image size.
        title: Title of the figure.
    """
    panels = [(speeds, _bars) for speeds in groups]
    panels += [(speeds, _scatter) for speeds in groups if len(_published(speeds)) > 1]
    heights = [0.55 + 0.2 * len(speeds) if draw is _bars else 2.3 for speeds, draw in panels]
    with print_style():
        figure = Figure(figsize=(COLUMN, sum(heights) + 0.45 + 0.14 * title.count("\n")), layout="constrained")
        figure.suptitle(title, parse_math=False, fontsize=6.5)
        grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        if len(settings := _settings(groups[0])) > 1:
            colours = zip(settings, cycle(COLOURS), strict=False)
            patches = [Patch(color=colour, label=" ".join(setting)) for setting, colour in colours]
            figure.legend(handles=patches, frameon=False, ncols=3, loc="outside lower center")
        for axes, (speeds, draw) in zip(grid.flat, panels, strict=True):
            draw(axes, speeds)
    return figure


def _settings(speeds: Sequence[Speed]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((speed.candidate.mode, speed.candidate.precision) for speed in speeds))


def _input_label(speed: Speed) -> str:
    return "batch {}, input {} × {}".format(speed.batch_size, *speed.image_size)


def _bars(axes: Axes, speeds: Sequence[Speed]) -> None:
    settings = _settings(speeds)
    for row, speed in enumerate(speeds):
        setting = (speed.candidate.mode, speed.candidate.precision)
        found = speed.images_per_second
        axes.barh(row, found.median, color=COLOURS[settings.index(setting) % len(COLOURS)], height=0.75)
        spread = [[found.median - found.low], [found.high - found.median]]
        axes.errorbar(found.median, row, xerr=spread, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.5)
        axes.annotate(f"{found.median:.3g}", (found.high, row), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(speeds)), [speed.candidate.network.name for speed in speeds], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(speed.images_per_second.high for speed in speeds))
    axes.set_xlabel(f"images/s ({_input_label(speeds[0])})")
    tidy(axes)


def _published(speeds: Sequence[Speed]) -> dict[str, Published]:
    if speeds[0].image_size != (224, 224):
        return {}
    known = {speed.candidate.network.name: speed.published for speed in speeds}
    return {name: row for name, row in known.items() if row is not None}


def _scatter(axes: Axes, speeds: Sequence[Speed]) -> None:
    accuracies, settings = _published(speeds), _settings(speeds)
    points: list[tuple[float, float, str]] = []
    for index, setting in enumerate(settings):
        chosen = [s for s in speeds if (s.candidate.mode, s.candidate.precision) == setting]
        chosen = [s for s in chosen if s.candidate.network.name in accuracies]
        x = [speed.images_per_second.median for speed in chosen]
        y = [accuracies[speed.candidate.network.name].top1 for speed in chosen]
        marker, colour = _MARKERS[index % len(_MARKERS)], COLOURS[index % len(COLOURS)]
        axes.scatter(x, y, s=22, marker=marker, color=colour, zorder=3)
        points += [(x, y, s.candidate.network.name) for x, y, s in zip(x, y, chosen, strict=True)]
    fastest = {name: max(x for x, _, other in points if other == name) for name in accuracies}
    labels = [(x, y, accuracies[name].model if x == fastest[name] else "") for x, y, name in points]
    axes.set_xlabel(f"images/s ({_input_label(speeds[0])})")
    axes.set_ylabel("ImageNet-1K top-1 (%), as published")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.margins(0.2)
    axes.grid(alpha=0.25, linewidth=0.5)
    tidy(axes)
    annotate(axes, labels)
