"""Predictions for prepared images that share a step of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from transxnet.api.preparation import Prepared
from transxnet.api.results import Classification, Detections, Prediction, Segmentation
from transxnet.data.transfers import to_host, to_network
from transxnet.dense.anchors import at_least_float32
from transxnet.dense.pixel_classes import classes_of
from transxnet.text import unicode_text

if TYPE_CHECKING:
    from transxnet.api.prediction import Predictor


@dataclass(frozen=True)
class Request:
    """Answer that is wanted for an image.

    Attributes:
        top: Number of classes, if not the predictor's.
        min_score: Minimum score of an object, if not the predictor's.
        features: Whether a classifier's pooled features are wanted too.
    """

    top: int | None = None
    min_score: float | None = None
    features: bool = False


def predict_batch(
    predictor: Predictor, images: Sequence[Prepared], requests: Sequence[Request]
) -> list[tuple[Prediction, Tensor | None]]:
    """Predictions for images of one group, and the pooled features (C) of those that want them.

    Args:
        predictor: The network, in evaluation mode on its device.
        images: The images.
        requests: What is wanted for each.

    Raises:
        ConfigError: If features are wanted of a network that gives none.
    """
    run = {"classification": _classify, "detection": _detect, "segmentation": _segment}[predictor.task]
    with torch.inference_mode():
        return run(predictor, images, requests)


def _classify(
    predictor: Predictor, images: Sequence[Prepared], requests: Sequence[Request]
) -> list[tuple[Prediction, Tensor | None]]:
    network = predictor.network
    batch = torch.stack([image.pixels for image in images])
    batch = to_network(batch, network, predictor.device).to(memory_format=torch.channels_last)
    pooled: Tensor | None = None
    if any(request.features for request in requests):
        maps = network.forward_features(batch)
        scores = network.forward_head(maps)
        pooled = network.forward_head(maps, pre_logits=True).float().cpu()
    else:
        scores = network(batch)
    probabilities = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=1).cpu()
    answers: list[tuple[Prediction, Tensor | None]] = []
    for index, (image, request) in enumerate(zip(images, requests, strict=True)):
        best = probabilities[index].topk(min(request.top or predictor.top, len(predictor.class_names)))
        names = tuple(predictor.class_names[label] for label in best.indices.tolist())
        found = Classification(image.name, names, tuple(best.values.tolist()))
        answers.append((found, pooled[index] if request.features and pooled is not None else None))
    return answers


def _detect(
    predictor: Predictor, images: Sequence[Prepared], requests: Sequence[Request]
) -> list[tuple[Prediction, Tensor | None]]:
    found = predictor.network([image.pixels.to(predictor.device) for image in images])
    answers: list[tuple[Prediction, Tensor | None]] = []
    for image, request, each in zip(images, requests, found, strict=True):
        minimum = predictor.min_score if request.min_score is None else request.min_score
        answers.append((detections_of(predictor, image.name, to_host(each), minimum), None))
    return answers


def _segment(
    predictor: Predictor, images: Sequence[Prepared], requests: Sequence[Request]
) -> list[tuple[Prediction, Tensor | None]]:
    batch = torch.stack([image.pixels for image in images]).to(predictor.device)
    scores = at_least_float32(predictor.network(batch))
    answers: list[tuple[Prediction, Tensor | None]] = []
    for index, image in enumerate(images):
        width, height = image.size
        classes = classes_of(scores[index : index + 1], (height, width))[0].cpu()
        answers.append((segmentation_of(predictor, image.name, classes), None))
    return answers


def detections_of(predictor: Predictor, name: str, found: dict[str, Tensor], minimum: float) -> Detections:
    """The detections with a minimum score, as a result."""
    from transxnet.detection.predict import confident
    from transxnet.detection.results import as_results

    kept = confident(found, minimum)
    return Detections(
        name,
        tuple(predictor.class_names[label] for label in kept["labels"].tolist()),
        kept["labels"],
        kept["scores"],
        kept["boxes"],
        kept.get("masks"),
        as_results(kept, unicode_text(name), predictor.category_ids),
    )


def segmentation_of(predictor: Any, name: str, classes: Tensor) -> Segmentation:
    """The class of each pixel (H, W) as a result."""
    counts = classes.flatten().bincount(minlength=len(predictor.class_names))
    shares = (counts / counts.sum()).tolist()
    order = sorted(range(len(shares)), key=lambda label: -shares[label])
    return Segmentation(
        name, classes, {predictor.class_names[label]: shares[label] for label in order if shares[label]}
    )
