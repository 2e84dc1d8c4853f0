"""Images to look at with a network: files, the embedded digits, or photographs that are installed anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from transxnet.bounds import ImageCount, Seed, checked
from transxnet.data.images import expand, read_image
from transxnet.data.randomness import seed_for
from transxnet.data.sources import DIGITS, open_evaluation

_SKIMAGE = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
_SKLEARN = ("china.jpg", "flower.jpg")


@dataclass(frozen=True)
class Example:
    """An image that has not been read yet.

    Attributes:
        name: Its file, or what to call it.
        read: Gives it as RGB, or raises BadImageError.
    """

    name: str
    read: Callable[[], Image.Image]


def open_examples(patterns: Sequence[str], most: int, seed: int = 0) -> list[Example]:
    """The images that files, folders and glob patterns name.

    Args:
        patterns: As of :func:`~transxnet.data.images.expand`; "digits" stands for the embedded digits
            that are held out, nothing for :func:`photographs`.
        most: Of more images, a sample of so many that depends on the seed alone, in the given order.
        seed: Chooses the sample.

    Raises:
        DataError: If a pattern matches nothing.
        ConfigError: If ``most`` or ``seed`` is out of range.
    """
    checked("most", most, ImageCount)
    checked("seed", seed, Seed)
    found: list[Example] = []
    if DIGITS in patterns and not Path(DIGITS).exists():
        digits = open_evaluation(DIGITS, None, 10)
        found += [Example(digits.name(index), partial(digits.load, index)) for index in range(len(digits.targets))]
        patterns = [pattern for pattern in patterns if pattern != DIGITS]
    paths = expand(patterns) if patterns or found else photographs()
    found += [Example(str(path), partial(read_image, path)) for path in paths]
    order = np.random.default_rng(seed_for(seed)).permutation(len(found))
    return [found[place] for place in sorted(order[:most])]


def photographs() -> list[Path]:
    """A cat, a cup, a portrait, a rocket, a motorcycle, a palace and a flower, of scikit-image and scikit-learn."""
    places = [(files("skimage") / "data", _SKIMAGE), (files("sklearn.datasets") / "images", _SKLEARN)]
    return [Path(str(folder / name)) for folder, names in places for name in names]
