"""A process that runs functions for the server, and whose loss is noticed.

``concurrent.futures`` keeps the writing end of a process's pipe open, and waits for ever for the rest of a result whose
process was killed while it wrote.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from transxnet.data.worker_processes import set_up_worker, worker_context
from transxnet.errors import ConfigError, TransXNetError
from transxnet.serve.faults import FailedError, RequestFault, WorkerLostError

_LOG = logging.getLogger("transxnet.serve")
_PRELOADED = "transxnet.serve.work"


class WorkerProcess:
    """A process with a state of its own, which runs one function after the other.

    Args:
        name: For messages.
        set_up: Makes the state; called in the process.
        *arguments: Its arguments.
    """

    def __init__(self, name: str, set_up: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        self._set_up = (set_up, arguments)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    @property
    def pid(self) -> int | None:
        """The process's number; None if none was started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.is_alive()

    async def start(self) -> Any:
        """Start the process, a lost one anew; returns what ``set_up`` returned.

        Raises:
            TransXNetError: As ``set_up``, or if the process ended before it.
        """
        self.kill()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._start)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function of the process's module, with its state as the first argument.

        Raises:
            RequestFault: As the function; FailedError for any other exception in it, and WorkerLostError if
                the process is lost.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, (function, arguments))

    def kill(self) -> None:
        """End the process at once; what it runs is lost."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def stop(self) -> None:
        """End the process after what it runs."""
        if self._pipe is not None:
            self._pipe.close()
        self.kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> Any:
        if self._process is not None:
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        context: Any = worker_context(_PRELOADED)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._set_up), name=self.name, daemon=True)
        self._process.start()
        theirs.close()  # otherwise its end would not be noticed
        return self._received()

    def _call(self, message: Any) -> Any:
        if self._pipe is None or not self.alive:
            raise WorkerLostError("the process that computes is being started again; try once more")
        try:
            self._pipe.send(message)
        except (OSError, ValueError) as error:
            raise WorkerLostError("the process that computes was lost; try once more") from error
        return self._received()

    def _received(self) -> Any:
        assert self._pipe is not None
        try:
            fault, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError("the process that computes was lost with this request; try once more") from error
        if fault:
            raise value
        return value


def _work(pipe: Connection, set_up: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run functions until the pipe is closed. Signals to a group of processes are the server's to follow."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    set_up_worker(0)
    try:
        state = set_up(*arguments)
        answer: tuple[bool, Any] = (False, state.described)
    except Exception as error:  # noqa: BLE001 (it is sent)
        pipe.send((True, _fault(error)))
        return
    while True:
        try:
            pipe.send(answer)
            function, given = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer = (False, function(state, *given))
        except Exception as error:  # noqa: BLE001
            answer = (True, _fault(error))


def _fault(error: Exception) -> TransXNetError:
    """An error that can be sent and shown; an unexpected one is logged with its traceback, and its text kept back."""
    if isinstance(error, RequestFault):
        return error
    if isinstance(error, TransXNetError):
        return ConfigError(error.for_commands)
    _LOG.error("an image could not be computed", exc_info=error)
    return FailedError("the image could not be computed; the server's log has the reason")
