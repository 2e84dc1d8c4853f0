"""Photographs that are installed with scikit-image and scikit-learn, for a first look without any data."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_SKIMAGE = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
_SKLEARN = ("china.jpg", "flower.jpg")


def photographs() -> list[Path]:
    """A cat, a cup, a portrait, a rocket, a motorcycle, a palace and a flower."""
    places = [(files("skimage") / "data", _SKIMAGE), (files("sklearn.datasets") / "images", _SKLEARN)]
    return [Path(str(folder / name)) for folder, names in places for name in names]
