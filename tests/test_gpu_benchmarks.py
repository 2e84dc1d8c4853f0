"""The scripts that count and measure passes on GPUs, on a machine without one."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fake_cuda import NEEDS_FAKES

pytest.importorskip("triton")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that counts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_bytes")


@NEEDS_FAKES
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts for a described device")
def test_the_packages_operators_move_fewer_bytes_in_fewer_launches(tool: Any) -> None:
    options = Namespace(model="transxnet_nano", batch=8, size=(64, 64), backbone_size=(64, 64))
    case = tool.Case("inference", False, False)
    plain, ours = (tool.count(case, policy, options) for policy in ("reference", "auto"))
    assert ours.bytes < plain.bytes
    assert ours.launches < plain.launches
    assert any(label.startswith("our ") for label in ours.rows)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run is for machines without a GPU")
def test_a_dry_run_measures_every_row(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--dry", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["section"] for row in rows} >= {"machine", "right", "inference", "training", "kernels", "waits"}
    assert not [row for row in rows if "error" in row or row.get("right") is False]


@pytest.mark.slow
def test_kernels_do_not_spill_registers() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_kernels.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n") > 20
