"""Importing the package is light."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"jsonargparse", "lightning", "matplotlib", "pandas", "rich", "sklearn", "tensorboard", "torchmetrics"}


def test_import_brings_no_training_or_plotting_library() -> None:
    program = "import sys, transxnet; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "transxnet" in imported.split()
    assert HEAVY.isdisjoint(imported.split())
