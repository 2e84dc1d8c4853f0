"""Which class each value or colour of masks is, by values, names and tables, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transxnet import DataError
from transxnet.data.masks.encoding import label_picture
from transxnet.data.masks.opening import SegmentationData, open_segmentation
from transxnet.data.masks.values import COLOR

Write = Callable[..., Path]
RED, GREEN, BLACK, GREY = (128, 0, 0), (0, 128, 0), (0, 0, 0), (90, 90, 90)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(*masks)`` writes masks of columns with these values or colours, with an image for each."""

    def made(*masks: Any, suffix: str = "png", **files: str) -> Path:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for index, mask in enumerate(masks):
            picture = mask if isinstance(mask, Image.Image) else columns(mask)
            picture.save(tmp_path / "masks" / f"{index}.{suffix}")
            Image.new("RGB", picture.size).save(tmp_path / "images" / f"{index}.jpg")
        for name, text in files.items():
            (tmp_path / name.replace("_txt", ".txt").replace("_csv", ".csv")).write_text(text)
        return tmp_path

    return made


def columns(values: Any, size: int = 12) -> Image.Image:
    """A mask with a column of each value (or colour)."""
    row = np.array(values)
    if row.ndim == 1:
        row = row.astype(np.uint8 if 0 <= row.min() <= row.max() < 256 else np.uint16 if row.min() >= 0 else np.int32)
    return Image.fromarray(np.repeat(row[None].astype(np.uint8) if row.ndim == 2 else row[None], size, 0))


def opened(root: Path, *, reduce: bool = False, **settings: Any) -> SegmentationData:
    return open_segmentation(str(root), reduce_zero_label=reduce, **settings)


def labels(data: SegmentationData, name: str) -> list[int]:
    """The classes of the columns of a mask."""
    for source in (data.validation, data.train):
        for index in range(len(source) if source else 0):
            assert source is not None
            if Path(source.label_files[index]).stem == name:
                found: list[int] = source.labels(index)[0].tolist()
                return found
    raise AssertionError(name)


RULES: dict[str, tuple[list[int], str, bool, list[str], list[int], str]] = {
    # values of columns, classes.txt, reduce_zero_label: classes, labels of the columns, part of a line
    "numbers": ([0, 1, 2, 255], "", False, ["class 0", "class 1", "class 2"], [0, 1, 2, 255], "value 255 is ignored"),
    "from 1": ([0, 1, 2, 255], "", True, ["class 1", "class 2"], [255, 0, 1, 255], "value 255 is ignored"),
    "0 and 255": ([0, 255], "", False, ["class 0", "class 255"], [0, 1], "hold the values 0 and 255: each is a class"),
    "0 and 255, without 0": ([0, 255], "", True, ["class 0", "class 255"], [0, 1], "value 0 is a class although"),
    "named 255, without 0": ([0, 255], "crack", True, ["background", "crack"], [0, 1], "value 0 is a class although"),
    "levels": ([0, 128, 255], "", False, ["class 0", "class 128", "class 255"], [0, 1, 2], "255 is a class"),
    "holes": ([0, 7, 200], "", False, ["class 0", "class 7", "class 200"], [0, 1, 2], "the values 0, 7 and 200: each"),
    "deep": ([0, 300, 1000], "", False, ["class 0", "class 300", "class 1000"], [0, 1, 2], "0, 300 and 1000"),
    "below 0": ([-1, 0, 1], "", False, ["class 0", "class 1"], [255, 0, 1], ""),
    "named": ([0, 1, 2], "a\nb\nc", False, ["a", "b", "c"], [0, 1, 2], ""),
    "named from 1": ([0, 1, 2], "a\nb", True, ["a", "b"], [255, 0, 1], ""),
    "named 0 and 255": ([0, 255], "sky\nroad", False, ["sky", "road"], [0, 1], "0 and 255 are the 2 classes of"),
    "named 255": ([0, 255], "crack", False, ["background", "crack"], [0, 1], "value 0 is background"),
    "named holes": ([0, 7, 200], "a\nb\nc", False, ["a", "b", "c"], [0, 1, 2], "0, 7 and 200 are the 3 classes"),
    "without background": ([0, 1, 2], "a\nb", False, ["background", "a", "b"], [0, 1, 2], "value 0 is background"),
    "1 to 3": ([1, 2, 3], "a\nb\nc", False, ["a", "b", "c"], [0, 1, 2], "1 to 3 are the 3 classes"),
    "by values": ([0, 7, 255], "0: a\n7: b\n255: c", False, ["a", "b", "c"], [0, 1, 2], ""),
    "values by table": ([0, 7], "Pixel Value, Class\n0, a\n7, b", False, ["a", "b"], [0, 1], ""),
    "more names": ([0, 1], "a\nb\nc", False, ["a", "b", "c"], [0, 1], "which cannot be learned: c"),
    "unnamed": ([0, 1, 9], "a\nb", False, ["a", "b"], [0, 1, 255], "values that are no class"),
    "shifted": ([0, 1, 2], "background\na\nb", True, ["background", "a", "b"], [255, 0, 1], "b has no pixels"),
    "shifted 255": ([0, 255], "no\nyes", True, ["no", "yes"], [255, 1], "if value 0 is no, give"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_values_become_classes(rule: str, write: Write) -> None:
    values, names, reduce, classes, expected, line = RULES[rule]
    mask = columns(values)
    suffix = "tif" if min(values) < 0 else "png"
    data = opened(write(mask, mask, suffix=suffix, **({"classes_txt": names} if names else {})), reduce=reduce)
    assert list(data.validation.class_names) == classes
    assert labels(data, "0") == expected
    lines = data.description().lines()
    assert any(line in one for one in lines), lines
    counted = data.validation.class_pixels()
    assert counted == {name: 12 * expected.count(index) for index, name in enumerate(classes)}


def test_colours_by_cvats_table(write: Write) -> None:
    table = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
    data = opened(write(columns([BLACK, RED, GREEN, GREY]), columns([BLACK, BLACK]), labelmap_txt=table))
    assert data.validation.class_names == ("background", "cat", "dog")
    assert (labels(data, "0"), labels(data, "1")) == ([0, 1, 2, 255], [0, 0])
    assert data.validation.findings.counts == {"masks with values that are no class (their pixels are ignored)": 1}
    assert "#5a5a5a" in data.description().lines()[-1]
    assert data.validation.colors.tolist() == [list(color) for color in (BLACK, RED, GREEN)]


@pytest.mark.parametrize(
    "text", ["cat #800000\ndog #008000", "name,r,g,b\ncat,128,0,0\ndog,0,128,0", "128 0 0 cat\n0 128 0 dog"]
)
def test_colours_by_other_tables(text: str, write: Write) -> None:
    root = write(columns([BLACK, RED, GREEN]), columns([RED, RED]), classes_txt=text)
    data = opened(root)
    assert data.validation.class_names == ("background", "cat", "dog")
    assert labels(data, "0") == [0, 1, 2]
    assert labels(opened(root, reduce=True), "0") == [255, 0, 1]


def test_colours_without_a_table_are_a_class_each(write: Write) -> None:
    data = opened(write(columns([BLACK, RED]), columns([GREY, GREEN])))
    assert data.validation.class_names == ("#000000", "#008000", "#5a5a5a", "#800000")
    assert "no table names them" in data.description().lines()[-1]
    with pytest.raises(DataError, match="names no colours; write one after each name"):
        opened(write(classes_txt="a\nb\nc\nd"))


def test_transparent_pixels_are_black(write: Write) -> None:
    picture = Image.new("RGBA", (3, 3), (200, 0, 0, 0))
    picture.putpixel((0, 0), (128, 0, 0, 255))
    data = opened(write(picture, picture, classes_txt="background #000000\ncat #800000"))
    assert labels(data, "0") == [1, 0, 0]


def test_grey_in_three_channels_and_one_bit_are_grey(write: Write) -> None:
    grey = columns([(0, 0, 0), (255, 255, 255)])
    bits = columns([0, 255]).convert("1")
    data = opened(write(grey, bits, columns([0, 255])))
    assert data.validation.class_names == ("class 0", "class 255")
    assert [labels(data, name) for name in "012"] == [[0, 1]] * 3


def indexed(colors: list[tuple[int, int, int]], values: list[int]) -> Image.Image:
    picture = columns(values)
    picture.putpalette([level for color in colors for level in color])
    return picture


def test_palettes_that_differ_are_read_by_their_colours(write: Write) -> None:
    one, other = indexed([BLACK, RED, GREEN], [0, 1, 2]), indexed([BLACK, GREEN, RED], [0, 1, 2])
    data = opened(write(one, other))
    assert [labels(data, name) for name in "01"] == [[0, 2, 1], [0, 1, 2]]
    assert "read by their colours" in "".join(data.description().lines())
    same = opened(write(one, one))
    assert same.validation.class_names == ("class 0", "class 1", "class 2")


def test_lossy_masks_are_rounded_and_named(write: Write) -> None:
    generator = np.random.default_rng(0)
    shapes = np.where(generator.random((6, 5)) < 0.3, 255, 0).astype(np.uint8)
    mask = Image.fromarray(np.kron(shapes, np.ones((16, 16), np.uint8)))
    data = opened(write(mask, mask, suffix="jpg"))
    assert data.validation.class_names == ("class 0", "class 255")
    assert np.mean(data.validation.labels(0).numpy() == np.asarray(mask) // 255) > 0.99
    assert list(data.validation.findings.counts) == [
        "masks in a lossy format (values rounded to the nearest class; save them as PNG)"
    ]
    colored = Image.fromarray(np.where(np.asarray(mask)[..., None] > 0, RED, BLACK).astype(np.uint8))
    data = opened(write(colored, colored, suffix="jpg", classes_txt="no #000000\nyes #800000"))
    assert np.mean(data.validation.labels(0).numpy() == np.asarray(mask) // 255) > 0.95


def test_photographs_and_instances_are_no_masks(write: Write) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = opened(write(columns([0, 1]), columns([0, 1]), noise))
    assert data.validation.findings.counts == {"masks with too many values (dropped)": 1}
    many = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    with pytest.raises(DataError, match="399 classes; masks may have 1 to 254"):
        opened(write(many, many, many))


def test_masks_of_another_size_are_named_before_training(write: Write) -> None:
    root = write(*[columns([0, 1])] * 3)
    Image.new("RGB", (5, 12)).save(root / "images/0.jpg")
    findings = opened(root).validation.findings
    assert findings.counts == {"masks that cannot be used": 1}
    assert findings.examples["masks that cannot be used"][0].endswith("0.png: 2 x 12 pixels, but its image is 5 x 12")


def test_rare_objects_are_held_out_too(write: Write) -> None:
    data = opened(write(*[columns([0, 1])] * 5, *[columns([0, 0])] * 40))
    assert data.train is not None and len(data.validation) == 9
    assert data.validation.class_pixels()["class 1"] and data.train.class_pixels()["class 1"]


def test_a_networks_values_hold_for_other_folders(write: Write) -> None:
    names = ("class 0", "class 7", "class 200")
    data = opened(write(columns([0, 200, 9]), columns([0, 0])), classes=names, values=(0, 7, 200))
    assert labels(data, "0") == [0, 2, 255]
    assert data.validation.findings.counts == {"masks with values that are no class (their pixels are ignored)": 1}
    data = opened(write(columns([0, 255]), columns([0, 0])), classes=("no", "yes"))
    assert labels(data, "0") == [0, 1]  # trained on masks of 0 and 1


def test_names_of_some_of_a_networks_classes_are_enough(write: Write) -> None:
    root = write(columns([0, 1]), columns([0, 0]), classes_txt="road\nsky")
    assert labels(opened(root, classes=("sky", "tree", "road")), "0") == [2, 0]


def test_predictions_are_written_in_the_values_of_the_data() -> None:
    classes = np.array([[0, 1, 2]])
    assert label_picture(classes, (), 3, True).tolist() == [[1, 2, 3]]
    assert label_picture(classes, (0, 7, 200), 3, False).tolist() == [[0, 7, 200]]
    assert label_picture(classes, (0, 7, 300), 3, False).dtype == np.uint16
    assert label_picture(classes, (COLOR, COLOR + 0x800000, COLOR + 255), 3, False).tolist() == [
        [[0, 0, 0], [128, 0, 0], [0, 0, 255]]
    ]
