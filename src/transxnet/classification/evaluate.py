"""Running a classifier over images, and judging it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from transxnet.data.loader import Advance, BadImages, LabelledImages, make_loader
from transxnet.data.sources import ImageSource
from transxnet.data.transforms import evaluation_transform
from transxnet.errors import DataError
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for the usable images of a source.

    Attributes:
        probabilities: (N, num_classes).
        targets: (N), class indices.
        places: (N), places of the images in the source.
        bad: Name and reason of each image that could not be used.
        seconds: Time spent in the network alone.
    """

    probabilities: Tensor
    targets: Tensor
    places: Tensor
    bad: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies.

    Attributes:
        images: Number of images judged.
        top1: Share of the images whose best answer is right.
        top5: Share with the truth among the best five; None for five classes or fewer.
        per_class: Top-1 of each class; None for one without images.
        counts: Images of each class.
        images_per_second: Through the network, reading excluded.
        bad: Name and reason of each image that could not be used.
    """

    images: int
    top1: float
    top5: float | None
    per_class: list[float | None]
    counts: list[int]
    images_per_second: float
    bad: dict[str, str]


def run_network(
    model: TransXNet,
    source: ImageSource,
    *,
    batch_size: int = 64,
    workers: int = 0,
    max_bad: float = 1.0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> Outputs:
    """Classify every image of a source, each once; the unreadable ones are left out and counted.

    Args:
        model: A classifier; it is put into evaluation mode, on ``device``.
        source: The images.
        batch_size: Images in a step.
        workers: Processes that read images.
        max_bad: Share of the images that may be unreadable.
        device: PyTorch's name of a device.
        advance: Told of progress.

    Raises:
        DataError: If more images than that are unreadable.
        ConfigError: If a number is out of range.
    """
    transform = evaluation_transform(vars(model)["pretrained_cfg"])
    loader = make_loader(LabelledImages(source, transform), batch_size, workers=workers)
    bad = BadImages(len(source.targets), max_bad)
    model.eval().to(device).to(memory_format=torch.channels_last)
    probabilities, targets, places = [], [], []
    seconds = 0.0
    for batch in loader:
        bad.add(batch.bad)
        if len(batch.targets):
            started = time.perf_counter()
            with torch.inference_mode():
                images = batch.images.to(device, memory_format=torch.channels_last)
                probabilities.append(model(images).softmax(dim=1).cpu())
            seconds += time.perf_counter() - started
            targets.append(batch.targets)
            places.append(batch.indices)
        advance(len(batch.targets) + len(batch.bad))
    if not probabilities:
        return Outputs(torch.empty(0, model.num_classes), torch.empty(0), torch.empty(0), bad.reasons, seconds)
    return Outputs(torch.cat(probabilities), torch.cat(targets), torch.cat(places), bad.reasons, seconds)


def evaluate(outputs: Outputs) -> Evaluation:
    """Judge a network by its outputs; raises DataError if there are none."""
    if not len(outputs.targets):
        name, reason = next(iter(outputs.bad.items()))
        raise DataError(f"none of {len(outputs.bad)} images can be used; the first is {name} ({reason})")
    probabilities, targets = outputs.probabilities, outputs.targets
    classes = probabilities.shape[1]

    def accuracy(k: int) -> float:
        return float(multiclass_accuracy(probabilities, targets, classes, top_k=k, average="micro"))

    # torchmetrics counts by class in a table of (classes, classes): 80 GB for 100,000 of them.
    counted = torch.bincount(targets, minlength=classes)
    right = torch.bincount(targets[probabilities.argmax(dim=1) == targets], minlength=classes)
    counts, shares = counted.tolist(), (right / counted).tolist()
    return Evaluation(
        images=len(targets),
        top1=accuracy(1),
        top5=accuracy(5) if classes > 5 else None,
        per_class=[share if count else None for share, count in zip(shares, counts, strict=True)],
        counts=counts,
        images_per_second=len(targets) / outputs.seconds,
        bad=outputs.bad,
    )
