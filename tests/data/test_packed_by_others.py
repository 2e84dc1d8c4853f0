"""Data sets in tar and Parquet files of other programs."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import run
from helpers.packed_files import assert_same, encoded, tar
from transxnet import DataError
from transxnet.data.sources import open_data, open_evaluation


@pytest.mark.parametrize("layout", ["set-train-{:02}.tar", "train/{:02}.tar"])
def test_labels_of_tar_files_from_cls_members(tmp_path: Path, layout: str) -> None:
    labels = [[2, 0], [1, 10, 2]]
    for number, indices in enumerate(labels):
        members: dict[str, bytes] = {}
        for index, label in enumerate(indices):
            members |= {f"s{index}.cls": f"{label}\n".encode(), f"s{index}.png": encoded(10 * number + index)}
            members |= {f"s{index}.depth.png": b"", f"s{index}.json": b"{}"}
        tar(tmp_path / layout.format(number), members)
    tar(tmp_path / layout.replace("train", "validation").format(0), {"v.cls": b"1", "v.png": encoded(5)})
    data = open_data(str(tmp_path))
    assert list(data.train.targets) == [2, 0, 1, 10, 2] and list(data.validation.targets) == [1]
    assert list(data.train.class_names) == [str(index) for index in range(11)]
    assert data.train.name(3) == f"{tmp_path / layout.format(1)}:s1.png"
    expected = Image.open(io.BytesIO(encoded(11)))
    assert np.array_equal(np.asarray(data.train.load(3)), np.asarray(expected))


def test_labels_of_tar_files_from_folders(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"x/c10/my.photo.png": encoded(0), "x/c9/1.png": encoded(1), "x/notes.txt": b""})
    tar(tmp_path / "val.tar", {"x/c10/2.png": encoded(2)})
    data = open_data(str(tmp_path))
    assert list(data.train.class_names) == ["c9", "c10"]
    assert list(data.train.targets) == [1, 0] and list(data.validation.targets) == [1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": b""}, "a.tar: 1.png has no class"),
        ({"1.png": b"", "2.png": b"", "2.cls": b"0"}, "a.tar: 1.png has no .cls beside it"),
        ({"1.png": b"", "1.cls": b"cat"}, "1.cls contains b'cat'"),
        ({"1.txt": b""}, "have no images"),
        ({"1.png": bytes(20_000), "1.cls": b"0"}, "a.tar is damaged"),
    ],
)
def test_unusable_tar_files_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    tar(tmp_path / "a.tar", members)
    if "damaged" in message:
        os.truncate(tmp_path / "a.tar", 9000)
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path))


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a data set of the Hugging Face Hub: two training files, one for validation."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    for name, indices in (("train-00000-of-00002", (0, 1, 2)), ("train-00001-of-00002", (3, 4)), ("test-0", (5, 6))):
        rows = [{"image": {"bytes": encoded(index), "path": None}, "label": index % 2} for index in indices]
        rows[-1]["image"] = {"bytes": encoded(4)[:900] if name == "test-0" else encoded(indices[-1]), "path": "x.png"}
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"hub/data/{name}.parquet")
    (tmp_path / "hub/README.md").touch()
    return tmp_path / "hub"


def test_parquet_files_are_read_row_by_row(parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data(str(parquet))
    assert list(data.train.class_names) == ["ant", "bee"]
    assert list(data.train.targets) == [0, 1, 0, 1, 0] and list(data.validation.targets) == [1, 0]
    assert np.array_equal(np.asarray(data.train.load(4)), np.asarray(Image.open(io.BytesIO(encoded(4)))))
    assert data.train.name(4) == f"{parquet}/data/train-00001-of-00002.parquet:1"
    assert list(open_evaluation(str(parquet), ["bee", "ant"], 2).targets) == [0, 1]
    assert_same(data.train, pickle.loads(pickle.dumps(data.train)))
    capsys.readouterr()
    assert run("data", "check", parquet) == 1
    printed = capsys.readouterr()
    assert f"broken {parquet}/data/test-0.parquet:1: damaged" in printed.out and not printed.err


def test_unreadable_parquet_files(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(parquet / "data/test-0.parquet", 500)
    with pytest.raises(DataError, match="test-0.parquet cannot be read"):
        open_data(str(parquet))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run("data", "check", parquet) == 2
    assert 'pip install "transxnet[parquet]"' in capsys.readouterr().err
