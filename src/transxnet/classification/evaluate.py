"""A classifier's outputs for images, and its accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transxnet.data.loader import Advance, BadImages, LabelledImages, make_loader
from transxnet.data.sources import ImageSource
from transxnet.data.transfers import NetworkTime, to_network
from transxnet.data.transfers import Outputs as BatchOutputs
from transxnet.data.transforms import evaluation_transform
from transxnet.errors import DataError
from transxnet.model import TransXNet


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for the usable images of a source.

    Attributes:
        probabilities: (N, num_classes).
        targets: (N), class indices.
        indices: (N), indices of the images in the source.
        bad: Name and reason of each image that could not be used.
        seconds: Time spent in the network and in copies to its device, reading excluded.
    """

    probabilities: Tensor
    targets: Tensor
    indices: Tensor
    bad: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a classifier.

    Attributes:
        images: Number of images evaluated.
        top1: Share of the images whose most probable class is right.
        top5: Share whose class is among the five most probable; None for five classes or fewer.
        per_class: Top-1 of each class; None for one without images.
        counts: Images of each class.
        images_per_second: Through the network, reading excluded.
        bad: Name and reason of each image that could not be used.
        outputs: The network's outputs.
    """

    images: int
    top1: float
    top5: float | None
    per_class: list[float | None]
    counts: list[int]
    images_per_second: float
    bad: dict[str, str]
    outputs: Outputs = field(repr=False)


def evaluate(
    model: TransXNet,
    source: ImageSource,
    *,
    batch_size: int = 64,
    workers: int = 0,
    max_bad: float = 1.0,
    device: str = "cpu",
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Evaluate a classifier on every image of a source, each once.

    Args:
        model: A classifier; it is put into evaluation mode, on ``device``.
        source: The images.
        batch_size: Images in a step.
        workers: Processes that read images.
        max_bad: Maximum share of unreadable images.
        device: PyTorch's name of a device.
        advance: Called with the number of images just processed.

    Raises:
        DataError: If more images than that are unreadable, or all of them.
        ConfigError: If a number is out of range.
    """
    outputs = run_network(
        model, source, batch_size=batch_size, workers=workers, max_bad=max_bad, device=device, advance=advance
    )
    return accuracy(outputs)


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
    """Classify every image of a source, each once; unreadable ones are left out and counted.

    A GPU is not waited for at each batch: outputs are copied in large parts.

    Arguments and errors are those of :func:`evaluate`.
    """
    transform = evaluation_transform(vars(model)["pretrained_cfg"])
    loader = make_loader(LabelledImages(source, transform), batch_size, workers=workers)
    bad = BadImages(len(source.targets), max_bad)
    model.eval().to(device).to(memory_format=torch.channels_last)
    probabilities, targets, indices = BatchOutputs(), [], []
    taken = NetworkTime(device)
    for batch in loader:
        bad.add(batch.bad)
        if len(batch.targets):
            with torch.inference_mode(), taken.running():
                images = to_network(batch.images, model, device).to(memory_format=torch.channels_last)
                scores = model(images)
                probabilities.add(scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=1))
            targets.append(batch.targets)
            indices.append(batch.indices)
        advance(len(batch.targets) + len(batch.bad))
    if not targets:
        return Outputs(torch.empty(0, model.num_classes), torch.empty(0), torch.empty(0), bad.reasons, taken.seconds)
    return Outputs(torch.cat(probabilities.all()), torch.cat(targets), torch.cat(indices), bad.reasons, taken.seconds)


def accuracy(outputs: Outputs) -> Evaluation:
    """Accuracy of outputs; raises DataError if there are none."""
    if not len(outputs.targets):
        name, reason = next(iter(outputs.bad.items()))
        raise DataError(f"none of {len(outputs.bad)} images can be used; the first is {name} ({reason})")
    probabilities, targets = outputs.probabilities, outputs.targets
    classes = probabilities.shape[1]

    def top(k: int) -> float:
        best = probabilities.topk(k, dim=1).indices if k > 1 else probabilities.argmax(dim=1, keepdim=True)
        return float((best == targets[:, None]).any(dim=1).sum() / len(targets))

    counted = torch.bincount(targets, minlength=classes)
    right = torch.bincount(targets[probabilities.argmax(dim=1) == targets], minlength=classes)
    counts, shares = counted.tolist(), (right / counted).tolist()
    return Evaluation(
        images=len(targets),
        top1=top(1),
        top5=top(5) if classes > 5 else None,
        per_class=[share if count else None for share, count in zip(shares, counts, strict=True)],
        counts=counts,
        images_per_second=len(targets) / outputs.seconds,
        bad=outputs.bad,
        outputs=outputs,
    )
