"""Running command lines in this process, and folders of images for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.networks import first_stages
from transxnet.cli.main import main

TWO_BLOCKS = ("--model-settings", json.dumps(first_stages(2)))
"""Options of training for a classifier of two blocks, whose steps and checkpoints take half of nano's time."""


def run(*arguments: object) -> int:
    """Run a command line; returns its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def error_line(arguments: Sequence[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of an invalid command line, run in an empty folder, with exit status 2."""
    with contextlib.chdir(folder):
        assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert len(printed.strip().splitlines()) == 1
    assert not list(folder.iterdir())  # no partial output is left
    return printed


def paint(folder: Path, count: int) -> None:
    """Two classes of noisy images that are easy to distinguish: green leaves and red roses."""
    generator = np.random.default_rng(0)
    for name, channel in (("leaf", 1), ("rose", 0)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            values = generator.uniform(0, 120, (40, 48, 3))
            values[..., channel] += 120
            Image.fromarray(values.astype(np.uint8)).save(folder / name / f"{index}.png")
