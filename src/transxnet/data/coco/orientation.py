"""Turning boxes and masks together with their image, as Pillow transposes it."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

Turn = Image.Transpose

QUARTER_TURNS = frozenset((Turn.TRANSPOSE, Turn.ROTATE_270, Turn.TRANSVERSE, Turn.ROTATE_90))
"""Transpositions that exchange height and width."""

_INVERSES = {Turn.ROTATE_90: Turn.ROTATE_270, Turn.ROTATE_270: Turn.ROTATE_90}


def inverse(turn: Turn) -> Turn:
    """The transposition that undoes another."""
    return _INVERSES.get(turn, turn)


def turned_size(size: tuple[int, int], turn: Turn) -> tuple[int, int]:
    """Height and width of a turned image."""
    return (size[1], size[0]) if turn in QUARTER_TURNS else size


def turned_boxes(boxes: Tensor, size: tuple[int, int], turn: Turn) -> Tensor:
    """Boxes (n, 4) of an image, left, top, right and bottom, in the turned image.

    Args:
        boxes: The boxes in pixels.
        size: Height and width of the image before.
        turn: How it is turned.
    """
    height, width = size
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    across = {Turn.FLIP_LEFT_RIGHT: width - x, Turn.ROTATE_180: width - x, Turn.FLIP_TOP_BOTTOM: x, Turn.TRANSPOSE: y,
              Turn.ROTATE_90: y, Turn.ROTATE_270: height - y, Turn.TRANSVERSE: height - y}[turn]  # fmt: skip
    down = {Turn.FLIP_LEFT_RIGHT: y, Turn.ROTATE_180: height - y, Turn.FLIP_TOP_BOTTOM: height - y, Turn.TRANSPOSE: x,
            Turn.ROTATE_90: width - x, Turn.ROTATE_270: x, Turn.TRANSVERSE: width - x}[turn]  # fmt: skip
    return torch.stack([across.amin(1), down.amin(1), across.amax(1), down.amax(1)], dim=1)


def turned_masks(masks: Tensor, turn: Turn) -> Tensor:
    """Masks (n, H, W) of an image for the turned image."""
    if turn in QUARTER_TURNS:
        masks = masks.transpose(1, 2)
    flips = {Turn.FLIP_LEFT_RIGHT: [2], Turn.FLIP_TOP_BOTTOM: [1], Turn.ROTATE_180: [1, 2], Turn.TRANSPOSE: [],
             Turn.ROTATE_90: [1], Turn.ROTATE_270: [2], Turn.TRANSVERSE: [1, 2]}[turn]  # fmt: skip
    return masks.flip(flips)
