"""Training in separate processes, which can be signalled while they run, and the server that forks them.

They are forked from a server process that has the imports done, so that each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from transxnet.training.checkpointing import saved

FORKED = multiprocessing.get_context("forkserver")
PRELOADED = (
    ["transxnet.cli.main", "transxnet.api.prediction", "transxnet.training.run", "sklearn.datasets"]
    + ["datasets", "pyarrow.parquet", "transxnet.serve.work"]
    + [f"transxnet.cli.{command}" for command in ("data", "train", "eval", "predict", "erf", "gradcam")]
    + [f"transxnet.{task}.experiment" for task in ("classification", "detection", "segmentation")]
)


_SET_PRELOAD = forkserver.set_forkserver_preload


def _preload_too(names: list[str]) -> None:
    """Set what the fork server imports: a process has only one, which the package's workers may be first to start."""
    _SET_PRELOAD([*PRELOADED, *(name for name in names if name not in PRELOADED)])


vars(forkserver)["set_forkserver_preload"] = _preload_too
FORKED.set_forkserver_preload([])


class Training:
    """A run of ``transxnet train``, as :class:`subprocess.Popen` runs a program.

    Args:
        *arguments: Arguments of the command.
        processes: Number of processes that train together, each on a CPU, as ``torchrun`` starts them.
        limit: Maximum size of a file in bytes.
        unread: Whether nobody reads the standard output; standard error is read in any case.
    """

    def __init__(self, *arguments: object, processes: int = 1, limit: int | None = None, unread: bool = False) -> None:
        self.output, theirs = FORKED.Pipe(duplex=False)
        closed, broken = FORKED.Pipe(duplex=False)
        closed.close()
        streams = (broken if unread else theirs, theirs)
        line = ["train", *map(str, arguments)]
        environments = _environments(processes) if processes > 1 else [{}]
        self.processes = [FORKED.Process(target=_run, args=(line, one, streams, limit)) for one in environments]
        for process in self.processes:
            process.start()
        theirs.close()
        broken.close()

    def poll(self) -> int | None:
        """The exit status; None before all processes have ended."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else self.returncode

    @property
    def returncode(self) -> int:
        """The exit status of the first process that failed, or 0."""
        return next((code for process in self.processes if (code := process.exitcode)), 0)

    def send_signal(self, number: int) -> None:
        """Send a signal to every process that still runs."""
        for process in self.processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)

    def kill(self) -> None:
        """End every process at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> str:
        """Wait for the end of the processes and of all that they started; returns what they printed."""
        with open(self.output.fileno(), "rb", closefd=False) as file:
            printed = file.read()
        self.output.close()
        for process in self.processes:
            process.join()
        return printed.decode()


class Launched:
    """A run of ``transxnet train`` on two processes that a launcher starts; methods as of :class:`Training`."""

    def __init__(self, launcher: Literal["torchrun", "lightning"], *arguments: object) -> None:
        torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
        program = (*(torchrun if launcher == "torchrun" else ()), "transxnet", "train", *map(str, arguments))
        self.process = subprocess.Popen(
            [sys.executable, "-m", *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.poll, self.send_signal = self.process.poll, self.process.send_signal

    @property
    def returncode(self) -> int:
        return self.process.returncode

    def communicate(self) -> str:
        return self.process.communicate()[0]


def until_saved(folder: Path, training: Training | Launched) -> None:
    """Wait for the first checkpoint of a run, or the run's end."""
    while not saved(folder / "checkpoints") and training.poll() is None:
        time.sleep(0.01)


def _environments(count: int) -> list[dict[str, str]]:
    """Environment variables of each process, as of ``torchrun --standalone``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _run(
    arguments: list[str], environment: dict[str, str], streams: tuple[Connection, Connection], limit: int | None
) -> None:
    from transxnet.cli.main import main

    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), descriptor)
    for stream in streams:
        stream.close()
    sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server may ignore it
    os.environ |= environment
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(arguments)
