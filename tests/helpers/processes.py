"""Training in a separate process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from transxnet.training.checkpointing import saved


def start(*arguments: object, limit: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "transxnet", "train", *map(str, arguments)]
    # The same number of threads as in the tests, for bit-identical results.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command, env=os.environ | threads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=limited,
    )  # fmt: skip


def until_saved(folder: Path, process: subprocess.Popen[str]) -> None:
    while not saved(folder / "checkpoints") and process.poll() is None:
        time.sleep(0.01)
