"""Checks of the tensors that detectors and segmenters are given, with at most one wait for a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from transxnet.dense.pixel_classes import IGNORED
from transxnet.text import counted

_HALF_LEVEL = 0.5 / 255  # floats that round to a level from 0 to 255
_UNNORMALISED = 10  # times the largest normalised value


def check_images(images: Sequence[Tensor]) -> None:
    """Check a detector's images.

    Args:
        images: (3, H, W) each, uint8, or float from 0 to 1.

    Raises:
        ValueError: If they are not.
    """
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"images must be a list of tensors (3, H, W), not a tensor {_shape(images)}")
    if not len(images):
        raise ValueError("images must be a list of at least one tensor (3, H, W)")
    for index, image in enumerate(images):
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            what = _shape(image) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"images[{index}] must be a tensor (3, H, W) of RGB, not {what}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"images[{index}] must be uint8, or float from 0 to 1, not {image.dtype}")
    floats = [(index, image) for index, image in enumerate(images) if image.is_floating_point()]
    values = _read([torch.stack(image.aminmax()) for _, image in floats])
    for (index, _), (low, high) in zip(floats, values, strict=True):
        if not -_HALF_LEVEL <= low <= high <= 1 + _HALF_LEVEL:
            if low != low or high != high:
                raise ValueError(f"images[{index}] has values that are not numbers (NaN)")
            advice = "divide it by 255, or give it as uint8" if high > 2 else "clamp it"
            raise ValueError(f"images[{index}] is float and must be from 0 to 1, not {low:g} to {high:g}; {advice}")


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None, num_classes: int, *, masks: bool,
    values: bool = True,
) -> None:  # fmt: skip
    """Check a detector's training targets.

    Args:
        images: (3, H, W) each.
        targets: For each image ``boxes`` (n, 4), float, in pixels, ``labels`` (n), int64, and perhaps ``masks``
            (n, H, W).
        num_classes: Number of classes.
        masks: Whether masks are needed.
        values: Whether to check values, for which a GPU is waited for.

    Raises:
        ValueError: If they are not.
    """
    if targets is None or len(targets) != len(images):
        count = "none" if targets is None else str(len(targets))
        raise ValueError(
            f"in training each image needs a target: there are {counted(len(images), 'image')}, targets: {count}"
        )
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_shapes(f"targets[{index}]", image, target, masks=masks)
    rows, classes = [_target_values(target) for target in targets if values], counted(num_classes, "class")
    for index, (low, high, flat, infinite) in enumerate(_read(rows)):
        name = f"targets[{index}]"
        if infinite:
            raise ValueError(f'{name}["boxes"] has coordinates that are not finite')
        if flat:
            raise ValueError(
                f'{name}["boxes"]: {flat:g} of {len(targets[index]["boxes"])} boxes have no width or height; they are '
                "left, top, right and bottom in pixels"
            )
        if low < 0 or high >= num_classes:
            raise ValueError(
                f'{name}["labels"] must be from 0 to {num_classes - 1} ({classes}), not {low if low < 0 else high:g}'
            )


def check_labelled(images: Tensor, labels: Tensor, num_classes: int, largest: float, *, values: bool = True) -> None:
    """Check a segmenter's training images and labels.

    Args:
        images: (B, 3, H, W), float, normalised.
        labels: (B, H, W), int64, class indices, or 255 for none.
        num_classes: Number of classes.
        largest: Largest absolute value of a normalised image.
        values: Whether to check values, for which a GPU is waited for.

    Raises:
        ValueError: If they are not.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images must be float (B, 3, H, W), normalised, not {images.dtype} {_shape(images)}")
    size = (len(images), *images.shape[2:])
    if labels.shape != size or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 {tuple(size)}, as the images, not {labels.dtype} {_shape(labels)}")
    if not values or not labels.numel():
        return
    known, classes = labels.where(labels != IGNORED, 0), counted(num_classes, "class")
    found = [torch.stack([x.double() for x in (*known.aminmax(), images.detach().abs().amax())])]
    for low, high, peak in _read(found):
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must be from 0 to {num_classes - 1} ({classes}) or {IGNORED} for none, not "
                f"{low if low < 0 else high:g}"
            )
        if not peak < float("inf"):
            raise ValueError("images have values that are not finite")
        if peak > _UNNORMALISED * largest:
            raise ValueError(
                f"images must be normalised (divided by 255, minus the mean, by the deviation), not up to {peak:g}"
            )


def _check_shapes(name: str, image: Tensor, target: Mapping[str, Tensor], *, masks: bool) -> None:
    needed = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    if not isinstance(target, Mapping) or (missing := [key for key in needed if key not in target]):
        lacks = f"; it lacks {', '.join(missing)}" if isinstance(target, Mapping) else ""
        raise ValueError(f"{name} must be a dictionary of {', '.join(needed)}{lacks}")
    for key in needed:
        if not isinstance(target[key], Tensor):
            raise ValueError(f'{name}["{key}"] must be a tensor, not {type(target[key]).__name__}')
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f'{name}["boxes"] must be float (n, 4), not {boxes.dtype} {_shape(boxes)}')
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f'{name}["labels"] must be int64 ({len(boxes)},), not {labels.dtype} {_shape(labels)}')
    size = (len(boxes), *image.shape[1:])
    if masks and target["masks"].shape != size:
        raise ValueError(f'{name}["masks"] must be {size}, as its image, not {_shape(target["masks"])}')


def _target_values(target: Mapping[str, Tensor]) -> Tensor:
    """Lowest and highest label, number of boxes without area, of coordinates that are not finite. Shape: (4)."""
    boxes, labels = target["boxes"].detach(), target["labels"]
    if not len(labels):
        return torch.zeros(4, dtype=torch.float64, device=boxes.device)
    flat = ((boxes[:, 2:] <= boxes[:, :2]).any(1)).sum()
    infinite = (~boxes.isfinite()).sum()
    return torch.stack([value.double() for value in (*labels.aminmax(), flat, infinite)])


def _read(values: Sequence[Tensor]) -> list[list[float]]:
    """Rows of values, read in one go; zeros for tensors without contents."""
    if not values:
        return []
    if any(row.device.type == "meta" for row in values):
        return [[0.0] * len(row) for row in values]
    rows: list[list[float]] = torch.stack([row.double() for row in values]).tolist()
    return rows


def _shape(tensor: Any) -> str:
    return str(tuple(tensor.shape))
