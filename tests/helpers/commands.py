"""Command lines run in this process, and folders of pictures for them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transxnet.cli.main import main


def run(*arguments: object) -> int:
    """The exit status of a command line."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def told_of_mistake(arguments: Sequence[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line with a mistake is answered, in an empty folder: one line, with status 2."""
    with contextlib.chdir(folder):
        assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert not list(folder.iterdir())  # nothing half made is left
    return said


def paint(folder: Path, count: int) -> None:
    """Two classes of noisy pictures that anyone can tell apart: green leaves and red roses."""
    generator = np.random.default_rng(0)
    for name, channel in (("leaf", 1), ("rose", 0)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            values = generator.uniform(0, 120, (40, 48, 3))
            values[..., channel] += 120
            Image.fromarray(values.astype(np.uint8)).save(folder / name / f"{index}.png")
