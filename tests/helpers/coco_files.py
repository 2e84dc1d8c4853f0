"""Small COCO data sets, to open and to damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 50
TRIANGLE = [[10.2, 5.0, 30.7, 8.3, 20.1, 30.9]]


def annotation(number: int, image: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 3,
        "bbox": [10, 5, 21, 26],
        "area": 270.0,
        "iscrowd": 0,
        "segmentation": TRIANGLE,
    } | changes


def content(images: int = 3) -> dict[str, Any]:
    """Images 10, 20, ... with one annotation each, of categories whose ids have gaps."""
    return {
        "images": [
            {"id": 10 * (i + 1), "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(images)
        ],
        "annotations": [annotation(i + 1, 10 * (i + 1)) for i in range(images)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write(path: Path, described: dict[str, Any], images: Path | None = None) -> Path:
    """Write an annotation file, and its images if a folder is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described))
    for image in described["images"] if images else []:
        file = images / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(file)
    return path


def only_first(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda described: described["annotations"][0].update(changes)


def ring() -> np.ndarray[Any, Any]:
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    radius = (y - 20) ** 2 + (x - 20) ** 2
    return np.asarray((radius < 200) & (radius > 60))
