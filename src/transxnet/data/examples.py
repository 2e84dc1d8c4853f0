"""Example images for analysis: files, the embedded digits, or photographs of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from transxnet.bounds import ImageCount, Seed, checked
from transxnet.data.images.reading import expand, read_image
from transxnet.data.randomness import seed_for
from transxnet.data.sources import DIGITS, open_evaluation
from transxnet.extras import require

_SKIMAGE = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
_SKLEARN = ("china.jpg", "flower.jpg")


@dataclass(frozen=True)
class Example:
    """An image that is read on demand.

    Attributes:
        name: Its file, or another name.
        read: Returns it as RGB, or raises BadImageError.
    """

    name: str
    read: Callable[[], Image.Image]


def open_examples(patterns: Sequence[str], limit: int, seed: int = 0) -> list[Example]:
    """Open images from files, folders and glob patterns.

    Args:
        patterns: As for :func:`~transxnet.data.images.reading.expand`; "digits" selects the embedded held-out
            digits, and an empty list :func:`photographs`.
        limit: Maximum number; more images are sampled by the seed, in the given order.
        seed: Seed of the sample.

    Raises:
        DataError: If a pattern matches nothing.
        ConfigError: If ``limit`` or ``seed`` is out of range.
    """
    checked("limit", limit, ImageCount)
    checked("seed", seed, Seed)
    found: list[Example] = []
    if DIGITS in patterns and not Path(DIGITS).exists():
        digits = open_evaluation(DIGITS, None, 10)
        found += [Example(digits.name(index), partial(digits.load, index)) for index in range(len(digits.targets))]
        patterns = [pattern for pattern in patterns if pattern != DIGITS]
    paths = expand(patterns) if patterns or found else photographs()
    found += [Example(str(path), partial(read_image, path)) for path in paths]
    order = np.random.default_rng(seed_for(seed)).permutation(len(found))
    return [found[index] for index in sorted(order[:limit])]


def photographs() -> list[Path]:
    """Seven photographs of scikit-image and scikit-learn: cat, cup, portrait, rocket, motorcycle, palace, flower."""
    require("the photographs used without images", "analysis", "scikit-image", "scikit-learn")
    sets = [(files("skimage") / "data", _SKIMAGE), (files("sklearn.datasets") / "images", _SKLEARN)]
    return [Path(str(folder / name)) for folder, names in sets for name in names]
