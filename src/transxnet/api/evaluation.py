"""``transxnet.evaluate``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from transxnet.api.networks import Checkpoint, open_network, task_of
from transxnet.api.results import (
    ClassificationScores,
    DetectionScores,
    SegmentationScores,
    classification_scores,
    detection_scores,
    segmentation_scores,
)
from transxnet.bounds import checked
from transxnet.classification.labels import label_names
from transxnet.data.coco.checks import Crowds
from transxnet.data.sources import open_evaluated
from transxnet.errors import ConfigError
from transxnet.extras import require
from transxnet.inference.description import Format
from transxnet.inference.precision import Fusion, Precision, precision_of

Progress = Callable[[int, int], None]
"""Called with the number of images processed so far, and of all images."""


def evaluate(
    checkpoint: Checkpoint | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    max_bad: float = 0.01,
    crowds: Crowds = "ignore",
    device: str = "auto",
    fuse: Fusion = None,
    precision: Precision = "auto",
    runtime: Format | None = None,
    progress: Progress = lambda done, total: None,
) -> ClassificationScores | DetectionScores | SegmentationScores:
    """Evaluate a network on labelled images, as ``transxnet eval`` does.

    Args:
        checkpoint: A released file, a file or run folder of ours, an exported file, or a URL.
        data: The images: "digits", "scenes", or a folder. For classifiers it holds a folder for each class
            (or ``val/`` with them), for detectors it is in COCO's layout, for segmenters in ADE20K's.
        model: Name of the network; without a checkpoint, its released weights are downloaded.
        image_size: Side in pixels of a classifier's square images, if not the network's own.
        batch_size: Images of a classifier's step; detectors and segmenters take one at a time.
        workers: Processes that read images.
        max_bad: Maximum share of unreadable images.
        crowds: Of a detector's images: "ignore" leaves annotations with ``iscrowd: 1`` out of the scores, as COCO
            does; "as-objects" takes them as objects.
        device: PyTorch's name of a device; "auto" for the GPU, if there is one.
        fuse: Fold what can be folded and, on a CPU, use native kernels: a wheel's, or compiled by a C++ compiler;
            "fold" does without these. By default on a GPU only.
        precision: "32", "bf16", or "auto" for bfloat16 on a GPU that has it and float32 elsewhere.
        runtime: Runtime of an exported file, if not the one it was written for.
        progress: Called with the number of images processed so far, and of all images.

    Returns:
        The scores, by what the checkpoint holds.

    Raises:
        CheckpointError: If the network cannot be read.
        DataError: If the images cannot be used, or too many of them.
        MissingExtraError: If an extra is not installed that the task or the images need.
        ConfigError: If a setting is out of range, or settings do not go together.
    """
    if data is None:
        raise ConfigError("give data to evaluate on: a folder, digits or scenes")
    network, chosen = open_network(
        checkpoint, model=model, image_size=image_size, device=device, fuse=fuse, precision=precision, runtime=runtime
    )
    if task_of(network) == "classification" and not network.num_classes:
        raise ConfigError(f"{checkpoint or model} holds a network without a classifier, which cannot be evaluated")
    settings = {"workers": workers, "max_bad": max_bad, "device": chosen}
    task, folder = task_of(network), os.fspath(data)
    if task == "detection":
        return _evaluate_detector(network, folder, checked("crowds", crowds, Crowds), settings, progress)
    if task == "segmentation":
        return _evaluate_segmenter(network, folder, settings, progress)
    return _evaluate_classifier(network, folder, {**settings, "batch_size": batch_size}, progress)


def _evaluate_classifier(network: Any, data: str, settings: Any, progress: Progress) -> ClassificationScores:
    from transxnet.classification.evaluate import evaluate as run

    source, described = open_evaluated(data, label_names(network) or None, network.num_classes)
    found = run(network, source, advance=_counter(len(source.targets), progress), **settings)
    return classification_scores(found, network, described.findings.lines(), precision_of(network))


def _evaluate_detector(network: Any, data: str, crowds: Crowds, settings: Any, progress: Progress) -> DetectionScores:
    require("evaluating a detector", "dense")
    from transxnet.data.coco.opening import open_coco_evaluation
    from transxnet.data.known_classes import known_classes
    from transxnet.data.scenes import data_folder
    from transxnet.detection.evaluate import evaluate as run

    head = known_classes(network.head_description)
    opened = open_coco_evaluation(data_folder(data), classes=head.label_names, masks=head.predicts_masks, crowds=crowds)
    source = opened.validation
    found = run(network, source, advance=_counter(len(source), progress), **settings)
    return detection_scores(found, head.label_names, opened.findings.lines(), precision_of(network))


def _evaluate_segmenter(network: Any, data: str, settings: Any, progress: Progress) -> SegmentationScores:
    require("evaluating a segmenter", "dense")
    from transxnet.data.known_classes import known_classes
    from transxnet.data.masks.opening import open_segmentation
    from transxnet.data.scenes import data_folder
    from transxnet.segmentation.evaluate import evaluate as run

    head = known_classes(network.head_description)
    source = open_segmentation(
        data_folder(data),
        reduce_zero_label=head.reduce_zero_label,
        classes=head.label_names,
        values=head.label_values,
    ).validation
    found = run(network, source, advance=_counter(len(source), progress), **settings)
    return segmentation_scores(found, head.label_names, source.findings.lines(), precision_of(network))


def _counter(total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return advance
