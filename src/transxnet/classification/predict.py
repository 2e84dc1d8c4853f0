"""What a classifier says of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transxnet.bounds import Answers, checked
from transxnet.classification.evaluate import run_network
from transxnet.classification.labels import readable_names
from transxnet.data.loader import Advance
from transxnet.data.sources import FolderSource
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Prediction:
    """The answers for one image.

    Attributes:
        path: The file.
        classes: Names of the most probable classes, best first; empty for an unreadable image.
        probabilities: Their probabilities.
        error: Why the image could not be read; empty otherwise.
    """

    path: str
    classes: list[str]
    probabilities: list[float]
    error: str = ""


def predict(
    model: TransXNet,
    paths: Sequence[Path],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> list[Prediction]:
    """Classify image files; unreadable ones do not stop the others.

    Args:
        model: A classifier.
        paths: The files.
        top: Answers for each image.
        batch_size: Images in a step.
        workers: Processes that read images.
        device: PyTorch's name of a device.
        advance: Told of progress.

    Returns:
        One prediction for each path, in the same order.
    """
    checked("top", top, Answers)
    source = FolderSource((), list(paths), [0] * len(paths))
    outputs = run_network(model, source, batch_size=batch_size, workers=workers, device=device, advance=advance)
    names = readable_names(model)
    best = outputs.probabilities.topk(min(top, len(names)), dim=1)
    answers = {
        place: Prediction(str(paths[place]), [names[index] for index in indices], probabilities)
        for place, indices, probabilities in zip(
            outputs.places.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
        )
    }
    return [
        answers.get(place) or Prediction(str(path), [], [], outputs.bad[str(path)]) for place, path in enumerate(paths)
    ]
