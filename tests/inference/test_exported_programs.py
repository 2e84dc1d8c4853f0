"""Exported programs: they run only if they are asked for, and hold nothing that `export` does not write."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import transxnet
from helpers.commands import run
from helpers.exported_files import CLASSES, description
from transxnet.errors import CheckpointError, ConfigError
from transxnet.inference import formats

DEEP = "[" * 100_000


class Scores(nn.Module):
    """Scores of ten classes by the mean colour."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, CLASSES)
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.linear(images.mean((2, 3)) * self.constant),)


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program as it is written."""
    path = tmp_path_factory.mktemp("programs") / "a.pt2"
    dims = {0: torch.export.Dim("b"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    exported = torch.export.export(Scores().eval(), (torch.zeros(2, 3, 40, 50),), dynamic_shapes={"images": dims})
    formats.write_torch(exported, path, description("torch"))
    assert transxnet.load_exported(path, "torch").run(np.zeros((1, 3, 33, 35), np.float32))[0].shape == (1, CLASSES)
    return path.read_bytes()


def archive(
    content: bytes, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = change(name, old.read(name))
            if part is not None:
                new.writestr(name, part)
        for name, part in (more or {}).items():
            new.writestr(old.namelist()[0].partition("/")[0] + "/" + name, part)
    return file.getvalue()


def test_programs_run_only_if_they_are_asked_for(
    pt2: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pt2"
    path.write_bytes(pt2)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="a program of PyTorch's: if you trust where it comes from, ask for it with"):
        transxnet.load_exported(path)
    assert run("predict", tmp_path, "--checkpoint", path) == 2
    line = capsys.readouterr().err
    assert "with the runtime torch (--runtime torch)" in line and line.count("\n") == 1


class Intruder:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_programs_hold_nothing_that_our_writer_does_not_write(pt2: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "intruder was here"
    saved = io.BytesIO()
    torch.save((Intruder(mark),), saved)
    bare = pickle.dumps((Intruder(mark),))
    # The name of the function is looked up from the memo, after other texts.
    hidden = (b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x9400"
              b"h\x00h\x01\x93\x8c" + bytes([len(str(mark))]) + str(mark).encode() + b"\x85R.")  # fmt: skip

    def config(kind: str, **values: Any) -> Callable[[str, bytes], bytes]:
        def change(name: str, part: bytes) -> bytes:
            if not name.endswith(f"model_{kind}_config.json"):
                return part
            about = json.loads(part)
            for value in about["config"].values():
                value.update(values)
            return json.dumps(about).encode()

        return change

    def inputs(content: bytes) -> Callable[[str, bytes], bytes]:
        return lambda name, part: content if name.endswith("sample_inputs/model.pt") else part

    def nested(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(pt2)) as parts:
            (name,) = (name for name in parts.namelist() if name.endswith("sample_inputs/model.pt"))
            return archive(parts.read(name), lambda name, part: content if name.endswith("data.pkl") else part)

    sizes = {"tensor_meta": {"sizes": [{"as_int": 10**10}]}}
    same = lambda _, part: part  # noqa: E731
    for content, message in (
        (archive(pt2, config("weights", use_pickle=True)), "as a pickle, which could run code"),
        (archive(pt2, config("constants", use_pickle=True)), "as a pickle, which could run code"),
        (archive(pt2, config("constants", path_name="opaque_obj_0")), "truncated or not an exported"),
        (archive(pt2, config("weights", **sizes)), "states 10,000,000,000 values in"),
        (
            archive(pt2, same, {"data/constants/opaque_obj_0": bare}),
            "has a part that `transxnet export` does not",
        ),
        (archive(pt2, same, {"data/constants/model.pt": saved.getvalue()}), "has a part that"),
        (archive(pt2, same, {"models/other.json": b"{}"}), "has a part that"),
        (archive(pt2, inputs(saved.getvalue())), "would run code"),
        (archive(pt2, inputs(bare)), "truncated or not an exported network"),
        (archive(pt2, inputs(nested(bare))), "would run code"),
        (archive(pt2, inputs(nested(hidden))), "not a pickle of the protocol that PyTorch writes"),
        (archive(pt2, lambda name, part: None if "transxnet.json" in name else part), "was not written by"),
        (archive(pt2, lambda name, part: b"[]" if "transxnet.json" in name else part), "it is not a JSON object"),
        (archive(pt2, lambda name, part: b"{}" if "models/model" in name else part), "truncated or not an exported"),
        (archive(pt2, lambda name, part: DEEP.encode() if "config.json" in name else part), "nested too deeply"),
        (saved.getvalue(), "truncated or not an exported|has a part that"),
        (b"PK\x05\x06" + bytes(18), "truncated or not an exported network"),
        (b"", "truncated or not an exported network"),
    ):
        path = tmp_path / "a.pt2"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            pytest.fail(f"{message}: {transxnet.load_exported(path, 'torch')}")
        assert re.search(message, str(caught.value))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert not mark.exists()
