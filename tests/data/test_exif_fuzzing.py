"""EXIF blocks of any content: an image is read as without its block, in one of eight orientations."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.damage import DAMAGES, bounded_memory
from helpers.image_files import Entry, with_exif
from transxnet.data.images.reading import decode_image

pytestmark = pytest.mark.slow

# Tags of pictures and of places, pointers to other directories, and those of TIFF that do not describe the pixels.
_TAGS = [0x10E, 0x10F, 0x110, 0x112, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x14A, 0x201, 0x202, 0x2BC, 0x83BB]
_TAGS += [0x8298, 0x8649, 0x8769, 0x8773, 0x8825, 0x9000, 0x9003, 0x927C, 0x935C, 0xA002, 0xA005, 0xC4A5]
_COUNTS = st.sampled_from([0, 1, 2, 3, 4, 5, 100, 65_535, 2**31, 2**32 - 1])

entries = st.lists(
    st.tuples(
        st.sampled_from(_TAGS),
        st.integers(0, 20),
        _COUNTS | st.integers(0, 2**32 - 1),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=12,
    unique_by=lambda entry: entry[0],
)


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with bounded_memory():
        yield


@functools.cache
def plain(form: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(decode_image("plain", with_exif(form, [])))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@settings(max_examples=DAMAGES, deadline=None)
@given(entries=entries, rest=st.binary(max_size=200))
def test_exif_blocks(form: str, entries: list[Entry], rest: bytes) -> None:
    if form == "TIFF":  # whose tags they would be: other images, and the position of JPEG data
        entries = [entry for entry in entries if entry[0] not in (0x14A, 0x201, 0x202)]
    seen = np.asarray(decode_image("a", with_exif(form, entries, rest)))
    turns = [np.rot90(one, quarter) for one in (seen, seen[:, ::-1]) for quarter in range(4)]
    assert any(np.array_equal(one, plain(form)) for one in turns)
