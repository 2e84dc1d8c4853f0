"""Masks of any values, kinds and formats beside any class file: every pixel is a class, ignored, or reported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from transxnet import DataError
from transxnet.data.images.reading import BadImageError
from transxnet.data.masks.opening import SegmentationData, SegmentationSource, open_segmentation
from transxnet.data.masks.values import read_mask

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("DAMAGES", "2000"))
USUAL = [[0, 1], [0, 255], [0, 1, 2, 255], [0, 7, 200], [0, 128, 255], [1, 2, 3], [255], [0], [0, 1, 65535], [-1, 0, 1]]
SUFFIXES = {"PNG": "png", "TIFF": "tif", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif"}

VALUES = st.one_of(
    st.sampled_from(USUAL),
    st.lists(st.integers(0, 255), min_size=1, max_size=12),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    st.lists(st.floats(width=32), min_size=1, max_size=4),
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=6)
LINES = st.one_of(
    NAMES,
    st.tuples(st.integers(-2, 300), NAMES).map(lambda pair: f"{pair[0]}: {pair[1]}"),
    st.tuples(NAMES, *[st.integers(0, 260)] * 3).map(lambda row: f"{row[0]}:{row[1]},{row[2]},{row[3]}::"),
    st.tuples(NAMES, st.integers(0, 0xFFFFFF)).map(lambda pair: f"{pair[0]} #{pair[1]:06x}"),
    st.sampled_from(["background", "cat", "dog #800000", "0: a", "255: b", "a:0,0,0::", "b:128,0,0::", "name,r,g,b"]),
)
MODES = ("L", "P", "1", "I;16", "I", "F", "RGB", "RGBA", "LA", "CMYK")


@st.composite
def masks(draw: st.DrawFn) -> tuple[Image.Image, str]:
    """A mask and its format."""
    values, mode = draw(VALUES), draw(st.sampled_from(MODES))
    size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(values), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    array = np.array(chosen, np.float64).reshape(size)
    if mode == "F":
        picture = Image.fromarray(array.astype(np.float32))
    elif mode in ("I", "I;16"):
        low, high, kind = (0, 65535, np.uint16) if mode == "I;16" else (-(2**31), 2**31 - 1, np.int32)
        picture = Image.fromarray(np.clip(np.nan_to_num(array), low, high).astype(kind))
    else:
        picture = Image.fromarray(np.clip(np.nan_to_num(array), 0, 255).astype(np.uint8)).convert(
            mode.replace("P", "L")
        )
        if mode == "P":
            picture.putpalette(draw(st.binary(min_size=768, max_size=768)))
        elif mode in ("RGB", "RGBA") and draw(st.booleans()):
            table = draw(st.lists(st.sampled_from([(0, 0, 0), (128, 0, 0), (0, 128, 0)]), min_size=1, max_size=3))
            picture = picture.point(lambda level: table[int(level) % len(table)][0])
    return picture, draw(st.sampled_from(list(SUFFIXES)))


def save(picture: Image.Image, form: str, path: Path) -> None:
    """Save a mask in a format, or as TIFF or PNG where the format does not take it."""
    for kind in (form, "TIFF", "PNG"):
        try:
            picture.save(path.with_suffix(f".{SUFFIXES[kind]}"), kind)
        except (OSError, ValueError, KeyError):
            path.with_suffix(f".{SUFFIXES[kind]}").unlink(missing_ok=True)
        else:
            return


def check(data: SegmentationData, source: SegmentationSource, reduce: bool) -> None:
    """Every pixel is a class, ignored by intention, or reported."""
    reported = "masks with values that are no class (their pixels are ignored)" in source.findings.counts
    encoding = source.encoding
    for index in range(len(source)):
        try:
            labels, mask = source.labels(index).numpy(), read_mask(source.label_files[index])
            assert source.load(index).size == labels.shape[::-1]
        except BadImageError:
            continue
        codes = mask.codes(encoding.colored, encoding.bit_value).astype(np.int64)
        assert set(np.unique(labels)) <= {*range(len(source.class_names)), 255}
        counted = source.pixels[index].tolist()
        if not mask.lossy:
            assert counted == [int((labels == label).sum()) for label in range(len(source.class_names))]
            for label, code in enumerate(encoding.codes):
                assert (codes[labels == label] == code).all()
            lost = set(codes[labels == 255].tolist()) - set(encoding.ignored)
            assert reported or not lost, lost
    assert all("\n" not in line for line in data.description().lines()[-len(source.findings.lines()) - 1 :])


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    pictures=st.lists(masks(), min_size=2, max_size=4),
    lines=st.none() | st.lists(LINES, max_size=5),
    name=st.sampled_from(["classes.txt", "labelmap.txt", "_classes.csv"]),
    reduce=st.booleans(),
    network=st.none() | st.tuples(st.just(("a", "b", "class 255")), st.sampled_from([(), (0, 7, 255), (0, 1, 2**24)])),
)
def test_masks(pictures: Any, lines: Any, name: str, reduce: bool, network: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        (root / "masks").mkdir()
        for index, (picture, form) in enumerate(pictures):
            save(picture, form, root / "masks" / f"{index}.png")
            Image.new("RGB", picture.size).save(root / "images" / f"{index}.png")
        if lines is not None:
            (root / name).write_text("\n".join(lines), encoding="utf-8")
        expected = {"classes": network[0], "values": network[1]} if network else {}
        try:
            data = open_segmentation(str(root), reduce_zero_label=reduce, **expected)
        except DataError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            event(f"refused: {refusal.rpartition(folder)[2][:40]}")
            assert "\n" not in refusal and folder in refusal
            return
        event("read")
        for source in (data.train, data.validation):
            assert source is not None
            check(data, source, reduce)
