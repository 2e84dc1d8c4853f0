"""Masks as COCO files hold them, polygons or run lengths, checked before compiled code sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2 import functional as V

_FARTHEST = 1e5  # pixels
_LONGEST_OUTLINE = 5_000_000  # pixels of an object's polygons; they are walked one by one, in memory too


class SegmentationError(ValueError):
    """A segmentation that cannot be used; the text is its kind."""


def checked(segmentation: Any, height: int, width: int) -> tuple[Any, bool]:
    """A segmentation that is safe to decode, and whether a part of it was left out.

    Args:
        segmentation: A list of polygons x1, y1, x2, y2, ..., or run lengths, compressed or not.
        height: The image's.
        width: The image's.

    Raises:
        SegmentationError: If it is neither, or fits no image of this size.
    """
    if isinstance(segmentation, dict):
        return _checked_run_lengths(segmentation, height, width), False
    if not isinstance(segmentation, list):
        raise SegmentationError("segmentation neither polygons nor run lengths")
    bounds = [_outline_bound(polygon) for polygon in segmentation]
    polygons = [polygon for polygon, bound in zip(segmentation, bounds, strict=True) if bound is not None]
    if not polygons:
        raise SegmentationError("polygon with fewer than 3 points, or not of numbers")
    if sum(filter(None, bounds)) > _LONGEST_OUTLINE and sum(map(_outline, polygons)) > _LONGEST_OUTLINE:
        raise SegmentationError(f"polygon whose outline has more than {_LONGEST_OUTLINE:,} pixels")
    return polygons, len(polygons) < len(segmentation)


def encoded(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A checked segmentation as compressed run lengths: ``size`` and ``counts`` (bytes)."""
    if isinstance(segmentation, list):
        run_lengths: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return run_lengths
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    packed: dict[str, Any] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return packed


def decoded(segmentations: Sequence[Any], height: int, width: int, size: tuple[int, int] | None = None) -> Tensor:
    """Checked segmentations as masks, bool.

    Args:
        segmentations: n of them.
        height: The image's.
        width: The image's.
        size: What each mask is resized to as it is decoded, to the nearest pixel; by default the image's
            height and width.

    Returns:
        (n, *size).
    """
    masks = torch.zeros(len(segmentations), *(size or (height, width)), dtype=torch.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        found = torch.from_numpy(coco_mask.decode(encoded(segmentation, height, width)))
        mask.copy_(found if size in (None, found.shape) else _nearest(found, list(mask.shape)))
    return masks.view(torch.bool)


def _nearest(mask: Tensor, size: list[int]) -> Tensor:
    resized: Tensor = V.resize(mask[None].contiguous(), size, interpolation=V.InterpolationMode.NEAREST)
    return resized[0]


def area(segmentation: Any, height: int, width: int) -> float:
    """Pixels of a checked segmentation."""
    return float(coco_mask.area(encoded(segmentation, height, width)))


def from_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as compressed run lengths that JSON can hold."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": run_lengths["counts"].decode()}


def uncompressed(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as run lengths in plain numbers: columns from the left, beginning with the zeros."""
    column = np.concatenate([[0], np.asarray(mask, np.int8).T.reshape(-1), [-1]])
    changes = np.flatnonzero(np.diff(column))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _outline_bound(polygon: Any) -> float | None:
    """More pixels than a polygon's outline can have; None if it is no polygon."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return None
    try:  # files have tens of millions of numbers: no loop in Python
        least, most = min(polygon), max(polygon)
        usable = math.isfinite(sum(polygon)) and least > -_FARTHEST and most < _FARTHEST
    except (TypeError, OverflowError):
        return None
    return (most - least + 1) * len(polygon) / 2 if usable else None


def _outline(polygon: Sequence[float]) -> float:
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _checked_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise SegmentationError("run lengths of another size than the image's")
    lengths: Any = _lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(lengths, list) and all(type(length) is int and length >= 0 for length in lengths)
    if not whole or sum(lengths) != height * width:
        raise SegmentationError("run lengths that do not fill the image")
    return {"size": size, "counts": counts}


def _lengths(text: str) -> list[int]:
    """The run lengths in COCO's compressed text: five bits a character, the sixth says that more follow.

    From the fourth on, the difference from the one before the last is written.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return [-1] if shift else lengths


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return (type(value) is float and math.isfinite(value)) or is_whole(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number of 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63
