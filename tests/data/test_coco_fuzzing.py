"""COCO records of any content: they are read, or end in a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.coco_files import HEIGHT, TRIANGLE, WIDTH, annotation, ring
from helpers.damage import bounded_memory
from transxnet import DataError
from transxnet.data.coco.opening import CocoData, CocoSource, open_coco, open_coco_evaluation
from transxnet.data.coco.run_lengths import from_mask, uncompressed
from transxnet.data.images.reading import BadImageError

pytestmark = pytest.mark.slow

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
IDS = st.integers(0, 4) | st.sampled_from(["1", "2", "1.0", 2.0, 3.5, "x", -1, 2**62])
SIDES = st.sampled_from([HEIGHT, WIDTH, 31, 0, None, "40", 40.0, 1e9])
COORDINATES = st.integers(-5, 70) | st.floats(-10, 100) | st.sampled_from([float("nan"), 1e300])
BOXES = st.lists(COORDINATES, min_size=4, max_size=4) | st.sampled_from([None, [], [1, 2, 30, 20]])
MASKS = st.sampled_from(
    [TRIANGLE, [], None, {}, from_mask(ring()), uncompressed(ring()), from_mask(ring().T)]
) | st.lists(st.lists(COORDINATES, max_size=8), max_size=3)
NAMES = st.sampled_from(
    ["0.jpg", "1.JPG", "images\\2.jpg", "/data/upload/1/0.jpg", "../x", "e\u0301.jpg", ".", "/"]
) | st.text(max_size=12)


FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "images": {"id": IDS, "file_name": NAMES, "height": SIDES, "width": SIDES},
    "annotations": {
        "id": IDS,
        "image_id": IDS,
        "category_id": IDS,
        "bbox": BOXES,
        "segmentation": MASKS,
        "area": COORDINATES,
        "iscrowd": st.sampled_from([0, 1, "1", None]),
    },
    "categories": {
        "id": IDS,
        "name": st.sampled_from(["cat", "Cat", "dog", "caf\u00e9"]),
        "supercategory": st.sampled_from(["none", "cat"]),
    },
}


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Usual content with a few fields that are changed, missing or anything, and a few such records."""
    content: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH} for number in range(3)
        ],
        "annotations": [annotation(number, number % 3, category_id=1 + number % 2) for number in range(1, 6)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for _ in range(draw(st.integers(0, 5))):
        group = draw(st.sampled_from(["images", "annotations", "annotations", "categories"]))
        record = draw(st.sampled_from(content[group]))
        name = draw(st.sampled_from(list(FIELDS[group])))
        if isinstance(record, dict):
            record[name] = draw(FIELDS[group][name] | FIELDS[group][name] | JUNK)
            if draw(st.integers(0, 5)) == 0:
                del record[name]
        if draw(st.integers(0, 5)) == 0:
            content[group].append(draw(st.fixed_dictionaries(FIELDS[group]) | JUNK))
    if draw(st.integers(0, 30)) == 0:
        content[draw(st.sampled_from(list(content)))] = draw(JUNK)
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    for name, orientation in (("0.jpg", 1), ("1.jpg", 6), ("2.jpg", 3), ("\u00e9.jpg", 8)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        (root / "images").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / name, exif=exif)
    return root


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with bounded_memory():
        yield


def use(source: CocoSource) -> None:
    """Decode images and masks as training and evaluation do."""
    for index in range(len(source)):
        try:
            image, instances = source.upright(index)
        except BadImageError:
            continue
        assert image.size == instances.size[::-1]
        assert (instances.boxes >= 0).all() and (instances.boxes[:, 2:] <= max(image.size)).all()
        assert instances.masks((5, 5), empty=True).shape == (len(instances.labels), 5, 5)
    json.dumps(source.ground_truth())


@settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(content=contents(), crowds=st.sampled_from(["ignore", "as-objects"]), masks=st.booleans())
def test_records_of_any_content(content: dict[str, Any], crowds: Any, masks: bool, folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps(content))
    if data := opened(lambda: open_coco(str(folder), crowds=crowds, masks=masks), path):
        assert data.train is not None
        use(data.train)
        use(data.validation)
        json.dumps(data.description().to_dict())
    classes = ["dog", "cat", "cow"]
    if data := opened(lambda: open_coco_evaluation(str(path), classes=classes, crowds=crowds, masks=masks), path):
        use(data.validation)


def opened(read: Callable[[], CocoData], path: Path) -> CocoData | None:
    """The data set; None if it is refused with a message that names the file."""
    try:
        data = read()
    except DataError as error:
        line = str(error)
    else:
        event("read")
        return data
    assert str(path) in line
    return None
