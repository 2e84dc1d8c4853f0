"""Figures of a run: curves, and predictions for some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from transxnet.files import replacing
from transxnet.plotting.fonts import drawable, families_for
from transxnet.plotting.style import BLUE, ORANGE, RED, shortened


@dataclass(frozen=True)
class Prediction:
    """An image with its true class, and the predicted class with its probability."""

    image: Image.Image
    truth: str
    predicted: str
    probability: float

    @property
    def correct(self) -> bool:
        return self.truth == self.predicted


def save_samples(predictions: Sequence[Prediction], path: Path, title: str, columns: int = 8) -> None:
    """Save a sheet of images: correct ones with blue frames and a tick, others with red frames and a cross."""
    rows = -(-len(predictions) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.85 * rows + 0.6), dpi=110, layout="constrained")
    figure.suptitle(drawable(title), fontsize=13, family=families_for(title), parse_math=False)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if index < len(predictions):
            _draw(axes, predictions[index])
        else:
            axes.axis("off")
    _save(figure, path)


def _draw(axes: Axes, prediction: Prediction) -> None:
    colour = BLUE if prediction.correct else RED
    side = 160  # all images are drawn at one size
    scale = side / max(prediction.image.size)
    width, height = (max(1, round(length * scale)) for length in prediction.image.size)
    axes.imshow(prediction.image.resize((width, height), Image.Resampling.BICUBIC))
    axes.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)
    mark = "✓" if prediction.correct else "✗"
    caption = f"{mark} {_short(prediction.predicted)} {100 * prediction.probability:.0f} %"
    if not prediction.correct:
        caption += f"\nis {_short(prediction.truth)}"
    families = families_for(prediction.predicted + prediction.truth)
    # Class names may contain dollar signs.
    axes.set_title(caption, fontsize=8.5, color=colour, pad=3, parse_math=False, family=families)


def _short(name: str) -> str:
    return shortened(drawable(name), 16)


def save_curves(
    history: Sequence[Mapping[str, float]], path: Path, title: str, *, loss: str, score: tuple[str, str]
) -> None:
    """Plot loss and validation score over the epochs.

    Args:
        history: Metrics of each epoch.
        path: The image file.
        title: Title of the figure.
        loss: Name of the loss.
        score: Key of the score in the metrics, a share from 0 to 1, and its label.
    """
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    figure.suptitle(drawable(title), fontsize=12, family=families_for(title), parse_math=False)
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
    if shares[-1] == shares[-1]:  # a score that does not exist is a gap
        scores.annotate(f"{shares[-1]:.1f} %", (epochs[-1], shares[-1]), xytext=(-4, -14),
                        textcoords="offset points", ha="right", color=ORANGE)  # fmt: skip
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary)
