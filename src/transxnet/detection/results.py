"""Detections in COCO's results format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from transxnet.dense.detection_transform import Target


def as_results(found: Target, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One image's detections in COCO's results format."""
    boxes = found["boxes"].cpu()
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy().round(3).tolist()
    rows = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(sides, found["scores"].tolist(), found["labels"].tolist(), strict=True)
    ]
    if "masks" in found:
        for row, mask in zip(rows, found["masks"].cpu().numpy(), strict=True):
            row["segmentation"] = encoded(mask)
    return rows


def encoded(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run lengths, in plain text.

    The lengths are those of zeros and ones by turns, down the columns; from the fourth on, differences from the
    last but one. Each is written in digits of five bits, the lowest first, to which 32 is added if more follow.
    """
    pixels = mask.astype(bool).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    start = [0, 0] if pixels[:1].any() else [0]  # it begins with the zeros
    values = np.diff(np.concatenate([start, changes, [pixels.size]]))
    values[3:] -= values[1:-2].copy()
    digits = np.stack([values >> shift for shift in range(0, 40, 5)], axis=1)
    # No more digits are needed where the rest is the sign alone, and the digit has it as its highest bit.
    sign = np.where(digits & 16, -1, 0)
    ends = np.argmax((digits >> 5) == sign, axis=1)
    number = np.arange(digits.shape[1])
    codes = (digits & 31) + np.where(number < ends[:, None], 32, 0) + 48
    return {"size": list(mask.shape), "counts": codes[number <= ends[:, None]].astype(np.uint8).tobytes().decode()}
