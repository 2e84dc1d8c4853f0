"""Command lines and Python code in separate processes, with limits on memory and time.

The server of :mod:`helpers.processes` forks a process for each of them, which takes a fraction of a
second instead of the seconds of the imports.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.processes import FORKED

MEMORY = 4 * 2**30
"""Bytes that a process may allocate beyond its imports (PyTorch's imports alone map more than that)."""

_CALLS = """
import json, transxnet
outcomes = []
for function, settings in json.loads(%r):
    try:
        getattr(transxnet, function)(**settings)
    except transxnet.TransXNetError as error:
        outcomes.append(str(error))
    else:
        outcomes.append("")
print(json.dumps(outcomes))
"""

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Ended:
    """The result of a process.

    Attributes:
        status: Exit status, or minus the signal that ended it.
        out: Its output.
        err: Its output on standard error.
        peak: Peak resident memory in bytes, imports included; 0 for a process that a signal ended.
    """

    status: int
    out: str
    err: str
    peak: int

    @property
    def refusal(self) -> str:
        """The single error line."""
        lines = self.err.strip().splitlines()
        assert self.status in (1, 2) and len(lines) == 1, self
        return lines[0]


def limited(
    *arguments: object,
    seconds: float = 60,
    memory: int = MEMORY,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run ``transxnet`` with arguments.

    Args:
        *arguments: Arguments of the command line.
        seconds: Time limit, after which SIGALRM ends the command.
        memory: Memory limit in bytes.
        folder: Working folder; an empty one by default.
        environment: Environment variables to set.
    """
    what = {"arguments": [str(argument) for argument in arguments]}
    return _ended(what, seconds, memory, folder, environment)


def python(code: str, *, seconds: float = 300, memory: int | None = None, folder: Path | None = None) -> Ended:
    """Run a Python program; arguments as of :func:`limited`, without a memory limit by default."""
    return _ended({"code": code}, seconds, memory, folder, None)


def outcomes(calls: Sequence[Call], seconds: float = 300) -> list[str]:
    """Call functions of the package within the memory limit.

    Args:
        calls: Name of the function and its keyword arguments, as JSON values.
        seconds: Time limit for all calls.

    Returns:
        The message of the TransXNetError of each; empty for success. Any other error fails here.
    """
    ended = python(_CALLS % json.dumps(calls), seconds=seconds, memory=MEMORY)
    assert ended.status == 0, ended.err[-2000:]
    results: list[str] = json.loads(ended.out.splitlines()[-1])
    return results


def _ended(
    what: dict[str, Any],
    seconds: float,
    memory: int | None,
    folder: Path | None,
    environment: Mapping[str, str] | None,
) -> Ended:
    with tempfile.TemporaryDirectory() as outputs, tempfile.TemporaryDirectory() as empty:
        limits = {"seconds": seconds, "memory": memory}
        task = {"folder": str(folder or empty), "environment": dict(environment or {}), "outputs": outputs}
        process = FORKED.Process(target=_run, args=(what | limits | task,))
        process.start()
        process.join()
        status = process.exitcode
        out, err = (Path(outputs, name).read_text(errors="replace") for name in ("out", "err"))
        peak = Path(outputs, "peak")
        kilobytes = int(peak.read_text()) if peak.is_file() else 0
    assert status is not None and status != -signal.SIGALRM, f"not finished after {seconds} s: {what}; {err}"
    return Ended(status, out, err, kilobytes * 1024)


def _run(task: dict[str, Any]) -> None:
    """Run the command or the program in this forked process."""
    from transxnet.cli.main import main

    outputs = Path(task["outputs"])
    for descriptor, path in enumerate((Path(os.devnull), outputs / "out", outputs / "err")):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(task["folder"])
    os.environ.update(task["environment"])
    signal.setitimer(signal.ITIMER_REAL, task["seconds"])
    if task["memory"] is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + task["memory"],) * 2)
    status = 1
    try:
        if "code" in task:
            program = outputs / "program.py"
            program.write_text(task["code"])
            runpy.run_path(str(program), run_name="__main__")
        else:
            main(task["arguments"])
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    except BaseException:  # noqa: BLE001 (a traceback, which tests look for)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        (outputs / "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        os._exit(status)
