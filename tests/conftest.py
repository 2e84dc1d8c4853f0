"""Fixtures that several test modules use."""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels can be tested without a GPU

from helpers.coco_files import content, write
from helpers.kernel_files import Kernel
from helpers.networks import released_shapes, released_tensor
from transxnet.data.coco.opening import CocoSource, open_coco_file

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # of their children


def pytest_collection_finish() -> None:
    """Keep the garbage collector from passing over all that the imports made, a twentieth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(scope="session")
def released() -> Callable[..., dict[str, Tensor]]:
    """``released(variant, kind)``: the state dict of a released "classifier" (default) or "backbone"."""

    def state_dict(variant: str, kind: str = "classifier") -> dict[str, Tensor]:
        return {name: released_tensor(name, shape) for name, shape in released_shapes(variant, kind).items()}

    return state_dict


@pytest.fixture(scope="session")
def released_file(released: Callable[..., dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the released transx-t.pth.tar, of made-up weights."""
    path = tmp_path_factory.mktemp("released") / "transx-t.pth.tar"
    torch.save({"state_dict": released("tiny"), "args": argparse.Namespace(lr=0.002), "epoch": 309}, path)
    return path


@pytest.fixture
def opened_coco(tmp_path: Path) -> Callable[..., CocoSource]:
    """``opened_coco(change)`` lets ``change`` alter the usual COCO annotations, and opens them."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda _: None, **settings: Any) -> CocoSource:
        described = content()
        change(described)
        return open_coco_file(write(tmp_path / "a.json", described, tmp_path / "images"), **settings)

    return make


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A small kernel to compile; no temporary file may be left of it."""
    kernel = Kernel(tmp_path)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MARKER", str(kernel.marker))
    monkeypatch.setattr(tempfile, "tempdir", str(kernel.temporary))
    yield kernel
    assert list(kernel.temporary.iterdir()) == []
    assert list(tmp_path.rglob("*.tmp")) == []
