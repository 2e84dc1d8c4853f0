"""From scores of pixels to a loss and to classes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

resize = partial(F.interpolate, mode="bilinear", align_corners=False)

_AT_ONCE = 2**24  # scores that are resized at a time

IGNORED = 255
"""The label of pixels that belong to no class: neither trained on nor evaluated."""


def segmentation_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, summed over the labelled pixels and divided by all, as in the released recipe.

    Args:
        scores: (B, classes, H, W).
        labels: (B, H, W), class indices, 255 where there is none.
    """
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum") / max(labels.numel(), 1)


def classes_of(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The best class of every pixel of the original image.

    A few classes are resized at a time: all of them at a photograph's own size would take gigabytes.

    Shapes: (B, classes, H, W) to (B, *size).
    """
    at_once = _AT_ONCE // (len(scores) * size[0] * size[1])
    if not at_once:
        return _classes_of_large(scores, size)
    best = scores.new_full((len(scores), *size), float("-inf"))
    classes = torch.zeros(len(scores), *size, dtype=torch.long, device=scores.device)
    for first in range(0, scores.shape[1], at_once):
        value, index = resize(scores[:, first : first + at_once], size=size).max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        classes = torch.where(better, index + first, classes)
    return classes


def _classes_of_large(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The same in less memory, for images of so many pixels that every map of them counts."""
    best = resize(scores[:, :1], size=size)
    classes = torch.zeros_like(best, dtype=torch.uint8 if scores.shape[1] <= 256 else torch.int32)
    value = best
    for index in range(1, scores.shape[1]):
        value = resize(scores[:, index : index + 1], size=size)
        classes.masked_fill_(value > best, index)
        torch.fmax(best, value, out=best)
    del best, value
    return classes[:, 0].long()
