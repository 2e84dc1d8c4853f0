"""A classifier's predictions for images."""

from __future__ import annotations

from dataclasses import dataclass

from transxnet.bounds import Answers, checked
from transxnet.classification.evaluate import run_network
from transxnet.classification.labels import readable_names
from transxnet.data.loader import Advance
from transxnet.data.sources import ImageSource
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        name: The image's file, or its name.
        classes: Names of the most probable classes, best first; empty for an unreadable image.
        probabilities: Their probabilities.
        error: Why the image could not be read; empty otherwise.
    """

    name: str
    classes: list[str]
    probabilities: list[float]
    error: str = ""


def predict(
    model: TransXNet,
    source: ImageSource,
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> list[Prediction]:
    """Classify images; unreadable ones do not stop the others.

    Args:
        model: A classifier; it is put into evaluation mode, on ``device``.
        source: The images; their targets are not used.
        top: Number of classes for each image.
        batch_size: Images in a step.
        workers: Processes that read images.
        device: PyTorch's name of a device.
        advance: Called with the number of images just processed.

    Returns:
        One prediction for each image, in the same order.

    Raises:
        ConfigError: If a number is out of range.
    """
    checked("top", top, Answers)
    outputs = run_network(model, source, batch_size=batch_size, workers=workers, device=device, advance=advance)
    names = readable_names(model)
    best = outputs.probabilities.topk(min(top, len(names)), dim=1)
    rows = dict(
        zip(outputs.indices.tolist(), zip(best.indices.tolist(), best.values.tolist(), strict=True), strict=True)
    )
    predictions = []
    for index in range(len(source.targets)):
        name = source.name(index)
        if index in rows:
            classes, probabilities = rows[index]
            predictions.append(Prediction(name, [names[label] for label in classes], probabilities))
        else:
            predictions.append(Prediction(name, [], [], outputs.bad[name]))
    return predictions
