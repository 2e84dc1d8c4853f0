"""Class folders with any names: they are opened, described and evaluated, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.image_files import DESCRIBED
from helpers.packed_files import encoded
from transxnet import DataError
from transxnet.classification.evaluate import evaluate
from transxnet.data.fingerprint import Fingerprint
from transxnet.data.names import is_system_folder, name_key, natural_key
from transxnet.data.sources import open_data, open_evaluated
from transxnet.text import printable

pytestmark = pytest.mark.slow

ODD = "①²½٣𝟘10aAée\u0301İıßſﬁ猫\u200d\u202e \n\x1b[\\$%{}'\"~-_#.,;:\udc80\udcff"
PICTURE = encoded(0)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a folder that a person would see."""
    if not text or "/" in text or "\0" in text or is_system_folder(text):
        return False
    try:
        return len(os.fsencode(text)) <= 255
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return False


NAMES = st.one_of(
    st.text(st.sampled_from(ODD), min_size=1, max_size=12),
    st.text(max_size=8),
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
    st.sampled_from(["train", "Val", "test", "10²5", "m²", "__background__", "①"]),
).filter(is_name)


class Blank(nn.Module):
    """A classifier that finds nothing."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.num_classes = len(names)
        self.pretrained_cfg = {**DESCRIBED, "num_classes": len(names), "label_names": names}

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), self.num_classes)


def write(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            (root / name / f"{index}.png").write_bytes(PICTURE)


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=2, max_size=4, unique=True),
    divided=st.booleans(),
    form=st.sampled_from(["NFC", "NFD"]),
)
@example(names=["①", "m²", "10²5"], divided=False, form="NFC")
@example(names=["train", "é"], divided=True, form="NFD")
def test_any_names(names: list[str], divided: bool, form: Any, tmp_path: Path) -> None:
    root, other = tmp_path / "data", [unicodedata.normalize(form, name) for name in names]
    other = [changed if is_name(changed) else name for name, changed in zip(names, other, strict=True)]
    try:
        write(root / "train" if divided else root, names)
        if divided:
            write(root / "val", other)
        try:
            data = open_data(str(root))
        except DataError:  # one class is left, such as of names that are parts or the same in another form
            event("refused")
            return
        found = list(data.train.class_names)
        assert {name_key(name) for name in found} <= {name_key(name) for name in names}
        assert sorted(found, key=natural_key) == found
        description = data.description()
        "\n".join(map(printable, description.lines())).encode()
        assert json.loads(json.dumps(description.to_dict()))["parts"][0]["images"] == len(data.train.targets)
        assert len(Fingerprint.of(data, root).train.paths) == len(data.train.targets)
        network: Any = Blank([unicodedata.normalize(form, name) for name in found])
        source, _ = open_evaluated(str(root), network.pretrained_cfg["label_names"], len(found))
        assert evaluate(network, source).images == len(source.targets)
    finally:
        shutil.rmtree(root, ignore_errors=True)
