"""Importing the package is light."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"jsonargparse", "lightning", "matplotlib", "pandas", "rich", "sklearn", "tensorboard", "torchmetrics"}


COMMANDS = HEAVY - {"jsonargparse", "rich"}
PROGRAM = """
import sys, transxnet
print(*{name.partition(".")[0] for name in sys.modules})
import transxnet.cli.predict, transxnet.cli.eval, transxnet.cli.train, transxnet.cli.data
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_import_and_help_bring_no_training_or_plotting_library() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    package, commands = (line.split() for line in done.stdout.splitlines())
    assert "transxnet" in package
    assert HEAVY.isdisjoint(package)
    assert COMMANDS.isdisjoint(commands)
