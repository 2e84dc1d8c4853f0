"""Processes that read images for a data loader."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from transxnet.data.images.pixel_values import ImageWarning

if sys.platform != "win32":  # where processes cannot be forked
    from multiprocessing import forkserver
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class WorkerProcess(ForkServerProcess):
        """A worker that does not import the program that starts it."""

        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802 (Python's name)
            with _program_hidden():
                return ForkServerProcess._Popen(process_obj)

    class WorkerContext(ForkServerContext):
        """Starts such workers."""

        Process = WorkerProcess


def worker_context(preload: str) -> BaseContext:
    """How workers are started.

    They are forked from a process that has imported a module and computed nothing: forking a process with
    running threads can hang, and a new process takes seconds to import PyTorch. They ignore Ctrl-C, which is
    their parent's, and do not import the program that starts them: Python imports it for objects that are
    defined in it, of which a worker has none, and a program without ``if __name__ == "__main__":`` would start
    from its beginning in each of them.

    Args:
        preload: Name of the module.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = WorkerContext()
    context.set_forkserver_preload([preload])
    with _interrupts_ignored():  # as the server and its workers inherit
        forkserver.ensure_running()
    return context


def set_up_worker(worker: int) -> None:
    """Print remarks on images as they are, and exit when the run is killed.

    PyTorch's own watchdog sees only the process that forked the worker.
    """
    warnings.formatwarning = _as_line
    if (parent := multiprocessing.parent_process()) is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A remark on images as it is, another warning with its file and line, as Python formats it."""
    origin = "" if issubclass(category, ImageWarning) else f"{filename}:{lineno}: {category.__name__}: "
    return f"{origin}{message}\n"


@contextmanager
def _program_hidden() -> Iterator[None]:
    """Hide where the main module was read from, which new processes would import."""
    program = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: program[name] for name in ("__spec__", "__file__") if name in program}
    program["__spec__"] = None
    program.pop("__file__", None)
    try:
        yield
    finally:
        program.update(hidden)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
