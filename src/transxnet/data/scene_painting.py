"""Painting a scene: handwritten digits in contrasting colours on a crop of a photograph."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image, ImageFilter

from transxnet.data.images.reading import read_image
from transxnet.data.sources import DIGITS, DigitsSource, open_data

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_TRAINING = ("china.jpg", "astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg",
            "brick.png", "camera.png", "ihc.png", "coins.png", "moon.png", "grass.png", "cell.png")  # fmt: skip
_VALIDATION = ("flower.jpg", "chelsea.png", "gravel.png", "retina.jpg")
_STROKE = 0.42  # of full ink; threshold of a digit's mask
_EDGE = 0.14  # of full ink; softness of a stroke's edge on both sides
_MIN_HEIGHT, _MAX_HEIGHT = 26 / 128, 64 / 128  # of a scene's shorter side
_CONTRAST = 0.3  # in luma, to the background of the digit
_GLOW = 0.02  # of a scene's shorter side
_TRIES = 30
_PLAIN = 0.4  # share of augmented backgrounds that are only rotated
_MIXED = 0.5  # share of the others that mix two photographs


class Material(NamedTuple):
    """Photographs and digits for the scenes of one part.

    Attributes:
        photographs: (H, W, 3), uint8 each.
        digits: (n, 8, 8), from 0 to 1.
        classes: (n), class of each digit.
        augmented: Whether photographs are rotated, recoloured and mixed, so that a few of them suffice
            to learn what is not a digit.
    """

    photographs: list[npt.NDArray[np.uint8]]
    digits: Floats
    classes: npt.NDArray[np.int64]
    augmented: bool


class Scene(NamedTuple):
    """A painted scene.

    Attributes:
        image: (H, W, 3), uint8.
        digits: The digits from back to front.
        masks: The visible mask of each, (H, W).
        crowds: Whether each is a crowd of one digit.
        edges: (H, W), the soft edges around the masks.
    """

    image: npt.NDArray[np.uint8]
    digits: list[int]
    masks: list[Mask]
    crowds: list[bool]
    edges: Mask


def scene_materials() -> tuple[Material, Material]:
    """Materials for training and validation, which share no photograph and no digit."""
    digits = open_data(DIGITS)
    parts = []
    for source, names, augmented in ((digits.train, _TRAINING, True), (digits.validation, _VALIDATION, False)):
        assert isinstance(source, DigitsSource)
        photographs = [_photograph(name) for name in names]
        parts.append(Material(photographs, source.pictures / 255, np.array(source.targets), augmented))
    return parts[0], parts[1]


def _photograph(name: str) -> npt.NDArray[np.uint8]:
    if name in ("china.jpg", "flower.jpg"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(name), np.uint8)
    image = read_image(Path(skimage.data.__file__).parent / name)
    image.thumbnail((640, 640), Image.Resampling.LANCZOS)
    return np.asarray(image)


def paint_scene(
    generator: np.random.Generator, material: Material, size: tuple[int, int], *, crowd: bool = False
) -> Scene:
    """Paint up to seven digits, as many as fit, on a crop of a photograph.

    Args:
        generator: Random generator for all choices.
        material: Photographs and digits.
        size: Height and width.
        crowd: Whether to add a crowd: small copies of one digit, side by side.
    """
    canvas = _background(generator, material, size)
    scene = Scene(np.empty(0, np.uint8), [], [], [], np.zeros(size, np.bool_))
    for number in range(int(generator.integers(3, 8)) + crowd):
        gathered = crowd and number == 0
        chosen = int(generator.integers(len(material.digits)))
        shape = (
            _gathered(generator, material, chosen, size)
            if gathered
            else _drawn(generator, material.digits[chosen], size)
        )
        placed = _placed(generator, shape, scene.masks, size, mostly_apart=generator.random() < 0.8)
        if placed is None:
            continue
        ink, mask = placed
        for earlier in scene.masks:
            earlier &= ~mask
        background = canvas[mask].mean(axis=0)
        colour = _colour(generator, background)
        canvas += _halo(mask)[..., None] * (float(_luma(colour) < _luma(background)) - canvas)
        canvas += np.clip((ink - _STROKE) / (2 * _EDGE) + 0.5, 0, 1)[..., None] * (colour - canvas)
        scene.edges[ink > _STROKE - _EDGE] = True
        scene.digits.append(int(material.classes[chosen]))
        scene.masks.append(mask)
        scene.crowds.append(gathered)
    return scene._replace(image=np.round(canvas * 255).astype(np.uint8))


def _background(generator: np.random.Generator, material: Material, size: tuple[int, int]) -> Floats:
    """A crop of a photograph, (H, W, 3) from 0 to 1, perhaps recoloured and mixed with another."""
    crop = _crop(generator, material, size)
    if not material.augmented or generator.random() < _PLAIN:
        return crop
    crop = _recoloured(generator, crop)
    if generator.random() < _MIXED:
        other = _recoloured(generator, _crop(generator, material, size))
        crop += _share(generator, material, size) * (other - crop)
    return crop


def _share(generator: np.random.Generator, material: Material, size: tuple[int, int]) -> Floats:
    """Opacity of the second photograph: the same everywhere, or full where a third photograph is light."""
    if generator.random() < 0.3:
        return np.full((1, 1, 1), generator.uniform(0.2, 0.8))
    light: Floats = _crop(generator, material, size).mean(axis=2, keepdims=True)
    share: Floats = np.clip(10 * (light - np.quantile(light, generator.uniform(0.3, 0.7))) + 0.5, 0, 1)
    return share


def _crop(generator: np.random.Generator, material: Material, size: tuple[int, int]) -> Floats:
    photograph = material.photographs[int(generator.integers(len(material.photographs)))]
    if material.augmented:
        photograph = np.rot90(photograph, int(generator.integers(4)))
    height, width = size
    max_scale = min(photograph.shape[0] / height, photograph.shape[1] / width)
    scale = max_scale * generator.uniform(0.45, 1)
    tall, wide = int(height * scale), int(width * scale)
    top, left = (int(generator.integers(have - part + 1)) for have, part in zip(photograph.shape, (tall, wide)))  # noqa: B905
    crop = photograph[top : top + tall, left : left + wide]
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    return np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.LANCZOS)) / 255


def _recoloured(generator: np.random.Generator, crop: Floats) -> Floats:
    """Permute the channels, and change each one's gamma and range, perhaps inverting it."""
    crop = crop[..., generator.permutation(3)] ** np.exp(generator.uniform(-0.7, 0.7, 3))
    middle, spread = generator.uniform(0.3, 0.7, 3), generator.uniform(0.2, 0.7, 3)
    sign = generator.choice([-1, 1]) * np.where(generator.random(3) < 0.2, -1, 1)
    changed: Floats = np.clip(middle + sign * spread * (2 * crop - 1), 0, 1)
    return changed


def _drawn(generator: np.random.Generator, digit: Floats, size: tuple[int, int]) -> Floats:
    """The ink of a digit with a random height."""
    tall = min(size) * np.exp(generator.uniform(np.log(_MIN_HEIGHT), np.log(_MAX_HEIGHT)))
    return _enlarged(digit, tall)


def _enlarged(digit: Floats, height: float) -> Floats:
    """The ink (H, W) of a digit of 8 x 8 pixels, enlarged smoothly and cropped to its strokes."""
    side = round(height * 10 / 8)  # with a margin of one pixel for soft edges
    picture = Image.fromarray(np.pad(digit, 1).astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(picture, np.float64)
    rows, columns = (np.flatnonzero((ink > _STROKE - _EDGE).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _gathered(generator: np.random.Generator, material: Material, chosen: int, size: tuple[int, int]) -> Floats:
    """Six small digits of the chosen one's class in two rows."""
    alike = np.flatnonzero(material.classes == material.classes[chosen])
    inks = [_enlarged(material.digits[index], min(size) / 7) for index in generator.choice(alike, 6)]
    height, width = (max(ink.shape[axis] for ink in inks) + 1 for axis in (0, 1))
    sheet = np.zeros((2 * height, 3 * width))
    for index, ink in enumerate(inks):
        top, left = index // 3 * height, index % 3 * width
        sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet


def _placed(
    generator: np.random.Generator, shape: Floats, earlier: list[Mask], size: tuple[int, int], *, mostly_apart: bool
) -> tuple[Floats, Mask] | None:
    """A digit's ink and mask at a position where it hides little of the earlier ones; None if there is no room."""
    hidden = 0.0 if mostly_apart else 0.25
    for _ in range(_TRIES):
        top, left = (int(generator.integers(have - part + 1)) for have, part in zip(size, shape.shape, strict=True))
        ink = np.zeros(size)
        ink[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        mask = ink > _STROKE
        if all((mask & other).sum() <= hidden * other.sum() for other in earlier):
            return ink, mask
    return None


def _colour(generator: np.random.Generator, background: Floats) -> Floats:
    """A random colour, much lighter or darker than the background."""
    while True:
        colour = np.array(colorsys.hsv_to_rgb(*generator.uniform((0, 0.4, 0.25), (1, 1, 1))))
        if abs(_luma(colour) - _luma(background)) >= _CONTRAST:
            return colour


def _halo(mask: Mask) -> Floats:
    """Opacity of a light or dark glow around a digit, (H, W), which separates it from details."""
    glow = Image.fromarray(mask).convert("L").filter(ImageFilter.GaussianBlur(min(mask.shape) * _GLOW))
    return np.minimum(np.asarray(glow) / 255 * 1.6, 0.8)


def _luma(colour: Floats) -> float:
    return float(colour @ (0.299, 0.587, 0.114))
