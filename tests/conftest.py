"""Fixtures that several test modules use."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xdist

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.kernel_files import Kernel
    from transxnet.data.coco.opening import CocoSource


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set up what must be set before the tests are imported, but not in a process that only hands them out."""
    if xdist.is_xdist_controller(session):
        return
    gc.disable()  # it would pass over all that the imports make again and again, a quarter of their time
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels can be tested without a GPU
        vars(torch.cuda)["device_count"] = lambda: 0  # PyTorch looks for a driver at each operator of fake tensors
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
        torch.set_num_threads(1)
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # of their children


def pytest_collection_finish() -> None:
    """Make tests faster: the garbage collector is kept from passing over all that the imports made."""
    if "triton.runtime.interpreter" in sys.modules:
        from helpers.interpreted import find_builtins_once

        find_builtins_once()
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(scope="session")
def released() -> Callable[..., dict[str, Tensor]]:
    """``released(variant, kind)``: the state dict of a released "classifier" (default) or "backbone"."""
    from helpers.networks import released_shapes, released_tensor

    def state_dict(variant: str, kind: str = "classifier") -> dict[str, Tensor]:
        return {name: released_tensor(name, shape) for name, shape in released_shapes(variant, kind).items()}

    return state_dict


@pytest.fixture(scope="session")
def released_file(released: Callable[..., dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the released transx-t.pth.tar, of made-up weights."""
    import torch

    path = tmp_path_factory.mktemp("released") / "transx-t.pth.tar"
    torch.save({"state_dict": released("tiny"), "args": argparse.Namespace(lr=0.002), "epoch": 309}, path)
    return path


@pytest.fixture
def opened_coco(tmp_path: Path) -> Callable[..., CocoSource]:
    """``opened_coco(change)`` lets ``change`` alter the usual COCO annotations, and opens them."""
    from helpers.coco_files import content, write
    from transxnet.data.coco.opening import open_coco_file

    def make(change: Callable[[dict[str, Any]], Any] = lambda _: None, **settings: Any) -> CocoSource:
        described = content()
        change(described)
        return open_coco_file(write(tmp_path / "a.json", described, tmp_path / "images"), **settings)

    return make


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A small kernel to compile; no temporary file may be left of it."""
    from helpers.kernel_files import Kernel

    kernel = Kernel(tmp_path)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MARKER", str(kernel.marker))
    monkeypatch.setattr(tempfile, "tempdir", str(kernel.temporary))
    yield kernel
    assert list(kernel.temporary.iterdir()) == []
    assert list(tmp_path.rglob("*.tmp")) == []
