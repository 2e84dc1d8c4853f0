"""The embedded data set "scenes": handwritten digits on photographs, for detection and segmentation.

Digits and photographs come with scikit-learn and scikit-image. Scenes are written to one folder in the
formats of both COCO and ADE20K.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.measure import approximate_polygon, find_contours, label

from transxnet.bounds import ImageCount, SceneSide, Seed, checked
from transxnet.data.coco.run_lengths import from_mask, uncompressed
from transxnet.data.masks.classes import palette
from transxnet.data.randomness import seed_for
from transxnet.data.scene_painting import Material, Scene, paint_scene, scene_materials
from transxnet.data.sources import SCENES
from transxnet.data.splits import TRAIN, VALIDATION
from transxnet.errors import ConfigError
from transxnet.files import cache_folder, read_text, replacing, write_text

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CATEGORY_IDS = (1, 2, 3, 5, 6, 7, 9, 10, 11, 13)  # with gaps, as COCO's
BACKGROUND = 1  # label of the background; digit d has label d + 2, and 0 is unlabelled

_TRAINING, _VALIDATION = TRAIN[1], VALIDATION[1]
_VERSION = 5
_MARKER = "scenes.json"


@dataclass(frozen=True)
class _Settings:
    train: int
    validation: int
    size: tuple[int, int]
    seed: int
    version: int = _VERSION

    def __post_init__(self) -> None:
        checked("train", self.train, ImageCount)
        checked("validation", self.validation, ImageCount)
        checked("size", self.size, tuple[SceneSide, SceneSide])
        checked("seed", self.seed, Seed)


def data_folder(data: str) -> str:
    """The folder of the embedded scenes for "scenes", otherwise the given folder.

    Raises:
        ConfigError: If the scenes cannot be written to the user's cache.
    """
    if data != SCENES:
        return data
    root = cache_folder()
    try:
        return str(scenes_folder(root))
    except OSError as error:
        raise ConfigError(
            f"the embedded scenes cannot be written to {str(root)!r}: {error.strerror or error}. Set XDG_CACHE_HOME "
            "to a writable folder"
        ) from error


def scenes_folder(
    root: Path,
    *,
    train: int = 4800,
    validation: int = 120,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Path:
    """The folder of some scenes below ``root``, which are written if missing or incomplete.

    Args:
        root: A folder for data.
        train: As for :func:`write_scenes`.
        validation: As for :func:`write_scenes`.
        size: As for :func:`write_scenes`.
        seed: As for :func:`write_scenes`.
        advance: As for :func:`write_scenes`.
    """
    height, width = size
    folder = root / f"{SCENES}-{train}-{validation}-{height}x{width}-{seed}"
    if _complete(folder) == _described(_Settings(train, validation, size, seed)):
        return folder
    return write_scenes(folder, train=train, validation=validation, size=size, seed=seed, advance=advance)


def write_scenes(
    folder: Path,
    *,
    train: int = 4800,
    validation: int = 120,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Path:
    """Write scenes, deterministically for given arguments.

    The parts share no photograph and no handwritten digit. A marker file is written last, by which
    :func:`scenes_folder` recognises a complete folder.

    Args:
        folder: Output folder.
        train: Number of training images.
        validation: Number of validation images.
        size: Height and width of landscapes; a third of the scenes are portraits.
        seed: Seed of all random choices.
        advance: Called with the number of scenes just written, for a progress bar.

    Returns:
        The folder, with ``images/{training,validation}/*.jpg``,
        ``annotations/{training,validation}/*.png`` (0 is unlabelled, 1 is background),
        ``annotations/instances_{training,validation}.json`` and ``classes.txt``.

    Raises:
        ConfigError: If a part is empty or scenes are smaller than 64 pixels.
    """
    settings = _Settings(train, validation, size, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).unlink(missing_ok=True)
    write_text(folder / "classes.txt", "\n".join(("background", *DIGIT_NAMES)) + "\n")
    materials = scene_materials()
    for part, material, count in zip((_TRAINING, _VALIDATION), materials, (train, validation), strict=True):
        _write_part(folder, part, material, count, settings, advance)
    write_text(folder / _MARKER, _described(settings))
    return folder


def _complete(folder: Path) -> str | None:
    with suppress(OSError, ValueError):  # missing or damaged: the scenes are written again
        return read_text(folder / _MARKER)
    return None


def _described(settings: _Settings) -> str:
    return json.dumps(asdict(settings))


def _write_part(
    folder: Path, part: str, material: Material, count: int, settings: _Settings, advance: Callable[[int], object]
) -> None:
    validation = part == _VALIDATION
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        generator = np.random.default_rng(seed_for(settings.seed, validation, index))
        height, width = settings.size if generator.random() < 2 / 3 else settings.size[::-1]
        scene = paint_scene(generator, material, (height, width), crowd=validation and index % 8 == 7)
        name = f"scene_{index + 1:06d}"
        with replacing(folder / "images" / part / f"{name}.jpg") as path:
            Image.fromarray(scene.image).save(path, quality=92)
        with replacing(folder / "annotations" / part / f"{name}.png") as path:
            _label_image(_labels(scene)).save(path)
        images.append({"id": index + 1, "file_name": f"{name}.jpg", "height": height, "width": width})
        annotations += _annotations(generator, scene, index + 1, len(annotations) + 1)
        advance(1)
    content = {
        "info": {"description": "handwritten digits on photographs", "version": str(_VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "digit"}
            for number, name in zip(CATEGORY_IDS, DIGIT_NAMES, strict=True)
        ],
    }
    write_text(folder / "annotations" / f"instances_{part}.json", json.dumps(content))


def _labels(scene: Scene) -> npt.NDArray[np.uint8]:
    labels = np.full(scene.image.shape[:2], BACKGROUND, np.uint8)
    labels[scene.edges] = 0  # neither background nor digit
    for digit, mask in zip(scene.digits, scene.masks, strict=True):
        labels[mask] = BACKGROUND + 1 + digit
    return labels


def _label_image(labels: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(labels).convert("P")
    image.putpalette(np.concatenate([[[0, 0, 0]], palette(len(DIGIT_NAMES) + 1)]).astype(np.uint8).tobytes())
    return image


def _annotations(generator: np.random.Generator, scene: Scene, image: int, first: int) -> list[dict[str, Any]]:
    entries = []
    for index, (digit, mask, crowd) in enumerate(zip(scene.digits, scene.masks, scene.crowds, strict=True)):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        outline = [] if crowd or generator.random() < 0.3 else polygons(mask)
        entries.append(
            {
                "id": first + index,
                "image_id": image,
                "category_id": CATEGORY_IDS[digit],
                "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
                "area": int(mask.sum()),
                "iscrowd": int(crowd),
                "segmentation": outline or (uncompressed(mask) if crowd else from_mask(mask)),
            }
        )
    return entries


def polygons(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """The outlines of a mask (H, W), each x1, y1, x2, y2, ...; none if it has holes, which polygons cannot express."""
    framed = np.pad(mask, 1)
    if label(~framed, connectivity=1).max() > 1:
        return []
    outlines = [approximate_polygon(each - 0.5, 0.3) for each in find_contours(framed.astype(float), 0.5)]
    return [np.round(each[:-1, ::-1], 2).reshape(-1).tolist() for each in outlines if len(each) > 3]
