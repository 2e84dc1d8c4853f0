"""Masks in COCO's formats, polygons or run lengths, validated before compiled code reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

_MAX_COORDINATE = 1e5  # pixels
_MAX_OUTLINE = 5_000_000  # pixels of an object's polygons, which take time and memory one by one


class SegmentationError(ValueError):
    """An unusable segmentation; the message is the kind of problem."""


def _coder() -> Any:
    """The functions of COCO's masks, imported for data with annotations only."""
    from faster_coco_eval.core import mask

    return mask


def _uncompressed(run_lengths: dict[str, Any]) -> list[int]:
    from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE

    lengths: list[int] = toUncompressedRLE([run_lengths])[0]["counts"]
    return lengths


def checked(segmentation: Any, height: int, width: int) -> tuple[Any, bool]:
    """Validate a segmentation, and report whether polygons were dropped.

    Args:
        segmentation: A list of polygons x1, y1, x2, y2, ..., or run lengths, compressed or not.
        height: Height of the image.
        width: Width of the image.

    Raises:
        SegmentationError: If it is neither, or does not fit an image of this size.
    """
    if isinstance(segmentation, dict):
        return _checked_run_lengths(segmentation, height, width), False
    if not isinstance(segmentation, list):
        raise SegmentationError("segmentation neither polygons nor run lengths")
    bounds = [_outline_bound(polygon) for polygon in segmentation]
    polygons = [polygon for polygon, bound in zip(segmentation, bounds, strict=True) if bound is not None]
    if not polygons:
        raise SegmentationError("polygon with fewer than 3 points, or not of numbers")
    if sum(filter(None, bounds)) > _MAX_OUTLINE and sum(map(_outline, polygons)) > _MAX_OUTLINE:
        raise SegmentationError(f"polygon whose outline has more than {_MAX_OUTLINE:,} pixels")
    return polygons, len(polygons) < len(segmentation)


def encoded(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Encode a checked segmentation as compressed run lengths: ``size`` and ``counts`` (bytes)."""
    if isinstance(segmentation, list):
        run_lengths: dict[str, Any] = _coder().merge(_coder().frPyObjects(segmentation, height, width))
        return run_lengths
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    packed: dict[str, Any] = _coder().frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return packed


def decoded(segmentations: Sequence[Any], height: int, width: int, size: tuple[int, int] | None = None) -> Tensor:
    """Decode checked segmentations to masks, bool.

    Args:
        segmentations: n segmentations.
        height: Height of the image.
        width: Width of the image.
        size: Height and width to which each mask is resized, by nearest neighbour; by default the image's.

    Returns:
        (n, *size).
    """
    masks = torch.zeros(len(segmentations), *(size or (height, width)), dtype=torch.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        found = torch.from_numpy(_coder().decode(encoded(segmentation, height, width)))
        mask.copy_(found if size in (None, found.shape) else _nearest(found, list(mask.shape)))
    return masks.view(torch.bool)


def _nearest(mask: Tensor, size: list[int]) -> Tensor:
    resized: Tensor = V.resize(mask[None].contiguous(), size, interpolation=V.InterpolationMode.NEAREST)
    return resized[0]


def area(segmentation: Any, height: int, width: int) -> float:
    """Number of pixels of a checked segmentation."""
    return float(_coder().area(encoded(segmentation, height, width)))


def bounds(segmentation: Any, height: int, width: int) -> list[float]:
    """The box of a checked segmentation: x, y, width, height."""
    if isinstance(segmentation, dict):
        box: list[float] = _coder().toBbox(encoded(segmentation, height, width)).tolist()
        return box
    points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def from_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask (H, W) as compressed run lengths for JSON."""
    run_lengths = _coder().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": run_lengths["counts"].decode()}


def uncompressed(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask (H, W) as a list of run lengths: columns from the left, beginning with the zeros."""
    run_lengths = _coder().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": _uncompressed(run_lengths)}


def _outline_bound(polygon: Any) -> float | None:
    """An upper bound of the pixels of a polygon's outline; None if it is not a polygon."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return None
    try:  # without a loop in Python, for files of tens of millions of numbers
        low, high = min(polygon), max(polygon)
        usable = math.isfinite(sum(polygon)) and low > -_MAX_COORDINATE and high < _MAX_COORDINATE
    except (TypeError, OverflowError):
        return None
    return (high - low + 1) * len(polygon) / 2 if usable else None


def _outline(polygon: Sequence[float]) -> float:
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _checked_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise SegmentationError("run lengths for another image size")
    lengths: Any = _uncompressed_counts(counts, height, width) if isinstance(counts, str) else counts
    valid = isinstance(lengths, list) and all(type(length) is int and length >= 0 for length in lengths)
    if not valid or sum(lengths) != height * width:
        raise SegmentationError("run lengths that do not fill the image")
    return {"size": size, "counts": counts}


def _uncompressed_counts(text: str, height: int, width: int) -> list[int] | None:
    """The run lengths in COCO's compressed text; None if it is malformed or too long for the image."""
    if not text or not "0" <= min(text) <= max(text) <= "o":  # the library ignores other bits
        return None
    try:
        return _uncompressed({"size": [height, width], "counts": text.encode()})
    except (RuntimeError, ValueError):
        return None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return (type(value) is float and math.isfinite(value)) or is_whole(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a 64-bit integer."""
    return type(value) is int and -(2**63) <= value < 2**63
