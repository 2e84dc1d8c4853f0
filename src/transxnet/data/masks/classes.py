"""Colours of classes, and ADE20K's classes."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

Colors = npt.NDArray[np.uint8]


def palette(count: int) -> Colors:
    """Distinguishable colours (count, 3): hues a golden angle apart, in three lightnesses."""
    index = np.arange(count)
    hue = (0.58 + index * 0.61803398875) % 1
    value = np.array([1.0, 0.72, 0.5])[index % 3]
    saturation = np.array([0.85, 0.6, 0.95])[index // 3 % 3]
    offset = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6  # HSV to RGB
    rgb = value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(offset, 4 - offset), 0, 1))
    colors: Colors = np.round(rgb * 255).astype(np.uint8)
    return colors


def ade20k_classes() -> tuple[list[str], Colors]:
    """ADE20K's 150 class names and colours."""
    content = _ade20k()
    return list(content[0]), np.array(content[1], np.uint8)


@cache
def _ade20k() -> tuple[list[str], list[list[int]]]:
    text = resources.files("transxnet.data").joinpath("ade20k.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return content["classes"], content["palette"]
