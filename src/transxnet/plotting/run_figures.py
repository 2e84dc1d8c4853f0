"""Pictures of a run: its curves, and what the network says of some images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from transxnet.files import replacing
from transxnet.plotting.style import BLUE, ORANGE, RED
from transxnet.text import printable


@dataclass(frozen=True)
class Verdict:
    """One image with its true class and what the network says."""

    image: Image.Image
    truth: str
    answer: str
    probability: float

    @property
    def right(self) -> bool:
        return self.truth == self.answer


def save_samples(verdicts: Sequence[Verdict], path: Path, title: str, columns: int = 8) -> None:
    """A sheet of images: blue frames and a tick are right, red frames and a cross are wrong."""
    rows = -(-len(verdicts) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.85 * rows + 0.6), dpi=110, layout="constrained")
    figure.suptitle(printable(title), fontsize=13, parse_math=False)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if place < len(verdicts):
            _draw(axes, verdicts[place])
        else:
            axes.axis("off")
    _save(figure, path)


def _draw(axes: Axes, verdict: Verdict) -> None:
    colour = BLUE if verdict.right else RED
    side = 160  # shown at one size, whatever the images' own
    scale = side / max(verdict.image.size)
    width, height = (max(1, round(length * scale)) for length in verdict.image.size)
    axes.imshow(verdict.image.resize((width, height), Image.Resampling.BICUBIC))
    axes.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)
    mark = "✓" if verdict.right else "✗"
    caption = f"{mark} {_short(verdict.answer)} {100 * verdict.probability:.0f} %"
    if not verdict.right:
        caption += f"\nis {_short(verdict.truth)}"
    axes.set_title(caption, fontsize=8.5, color=colour, pad=3, parse_math=False)  # a class may hold dollars


def _short(name: str, most: int = 16) -> str:
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def save_curves(
    history: Sequence[Mapping[str, float]], path: Path, title: str, *, loss: str, score: tuple[str, str]
) -> None:
    """Loss and validation score over the epochs.

    Args:
        history: A row of metrics for each epoch.
        path: The picture.
        title: What was trained, and how good it is.
        loss: What the loss is.
        score: Name of the score, a share of 1, among the metrics, and what people call it.
    """
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    figure.suptitle(printable(title), fontsize=12, parse_math=False)
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    style = "o-" if len(history) < 2 else "-"
    for name, label, colour in (("train/loss", "training (augmented)", BLUE), ("val/loss", "validation", ORANGE)):
        if any(name in row for row in history):
            losses.plot(epochs, [row.get(name, float("nan")) for row in history], style, color=colour, label=label)
    losses.set(xlabel="epoch", ylabel=loss)
    losses.legend(frameon=False)
    name, label = score
    shares = [100 * row.get(name, float("nan")) for row in history]
    scores.plot(epochs, shares, style, color=ORANGE)
    scores.set(xlabel="epoch", ylabel=f"{label} (%)")
    scores.annotate(f"{shares[-1]:.1f} %", (epochs[-1], shares[-1]), xytext=(-4, -14),
                    textcoords="offset points", ha="right", color=ORANGE)  # fmt: skip
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a class's name in a script that the font lacks
        figure.savefig(temporary)
