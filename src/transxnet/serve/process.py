"""A process that runs functions for the server, and whose loss is noticed.

``concurrent.futures`` keeps the writing end of a process's pipe open, and waits for ever for the rest of a result whose
process was killed while it wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from transxnet.data.worker_processes import set_up_worker, worker_context
from transxnet.errors import ConfigError, TransXNetError
from transxnet.files import reason
from transxnet.serve.faults import FailedError, RequestFault, TooSlowError, WorkerLostError

_LOG = logging.getLogger("transxnet.serve")
_PRELOADED = "transxnet.serve.work"
_STOP_SECONDS = 5.0  # for the end of a killed process
_RETURNED, _FAULT, _LAST_FAULT = range(3)  # after the last one the process ends


class NotTakenError(WorkerLostError):
    """A process that was lost before it took the message."""


class WorkerProcess:
    """A process with a state of its own, which runs one function at a time.

    Its methods are called in one event loop; a thread waits for the process.

    Args:
        name: For messages.
        set_up: Makes the state; called in the process.
        *arguments: Its arguments.
        on_lost: Called if the process is lost while it has nothing to run.
        on_restart: Called when a lost process has been started again.

    Attributes:
        failures: Starts that failed since the last one that did not.
        start_seconds: Duration of the last start that did not fail.
        first_delay: Seconds between the first failed start and the next one, which double with each.
        longest_delay: Maximum of these.
    """

    first_delay = 0.5
    longest_delay = 30.0

    def __init__(
        self,
        name: str,
        set_up: Callable[..., Any],
        *arguments: Any,
        on_lost: Callable[[], None] = lambda: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.failures = 0
        self.start_seconds = 0.0
        self._set_up = (set_up, arguments)
        self._on_lost, self._on_restart = on_lost, on_restart
        self._process: Any = None
        self._pipe: Connection | None = None
        self._ready = False
        self._ended = False
        self._stopped = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._at_exit = Finalize(None, self._end, exitpriority=1)  # multiprocessing sends SIGTERM, and waits for ever

    @property
    def pid(self) -> int | None:
        """The process's number; None if none was started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has started and is not known to be lost.

        It is its pipe that shows this: the process from which it was forked may end before it.
        """
        return self._ready

    async def start(self) -> Any:
        """Start the process, a lost one anew; returns what ``set_up`` returned.

        Raises:
            TransXNetError: As ``set_up``, or if the process ended before it.
        """
        self.kill()
        began = time.monotonic()
        try:
            if self._stopped:
                raise WorkerLostError(f"{self.name} was stopped")
            context = worker_context(_PRELOADED)  # here, since only the main thread can shield it from Ctrl-C
            described = await self._in_thread(self._start, context)
        except TransXNetError:
            self.failures += 1
            raise
        except Exception as error:  # files, processes, threads or memory may have run out
            self.failures += 1
            raise WorkerLostError(f"the process that computes cannot be started ({reason(error)})") from error
        self.failures, self.start_seconds, self._ready = 0, time.monotonic() - began, True
        self._await_end()
        return described

    async def keep(self) -> None:
        """Start a lost process again, as often as it takes; raises WorkerLostError once it was stopped."""
        while not self.alive:
            _LOG.warning("%s was lost and is started again", self.name)
            try:
                await self.start()
                self._on_restart()
            except TransXNetError as error:
                if self._stopped:
                    raise
                delay = min(self.longest_delay, self.first_delay * 2 ** min(self.failures - 1, 20))
                _LOG.warning("%s did not start (%s); the next try is in %g s", self.name, error, delay)
                await asyncio.sleep(delay)

    async def run(self, function: Callable[..., Any], *arguments: Any, limit: float | None = None) -> Any:
        """Run a function of the process's module, with its state as the first argument.

        A process that was lost while it had nothing to run is started again first. One that runs something when this
        is cancelled is killed.

        Args:
            function: The function.
            *arguments: Its further arguments.
            limit: Seconds after which the process is killed.

        Raises:
            RequestFault: As the function; FailedError for any other exception in it, WorkerLostError if the process
                is lost, and TooSlowError if it was killed.
        """
        try:
            return await self._run((function, arguments), limit)
        except NotTakenError:
            return await self._run((function, arguments), limit)

    async def _run(self, message: Any, limit: float | None) -> Any:
        await self.keep()
        self._ignore_end()
        call = asyncio.ensure_future(self._in_thread(self._call, message))
        call.add_done_callback(self._called)
        try:
            await asyncio.wait([call], timeout=limit)
        finally:
            if late := not call.done():
                self.kill()
        if late:
            await asyncio.wait([call])
            if isinstance(call.exception(), WorkerLostError):
                raise TooSlowError(f"an image was given up after {limit:g} seconds; allow more with --timeout")
        return call.result()

    def kill(self) -> None:
        """End the process at once; what it runs is lost."""
        self._ignore_end()
        self._ready = False
        self._end()

    def stop(self) -> None:
        """End the process at once, for good, and return when nothing is left of it."""
        self._stopped = True
        self.kill()
        self._thread.shutdown(cancel_futures=True)
        self._close()
        self._at_exit.cancel()

    def _end(self) -> None:
        if self._process is not None and self._process.pid is not None and not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # multiprocessing does not if the fork server has ended

    async def _in_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, argument)

    def _called(self, call: asyncio.Future[Any]) -> None:
        if not call.cancelled():
            call.exception()  # nobody may wait for it any longer
        self._await_end()

    def _await_end(self) -> None:
        """Notice if the process ends while it has nothing to run: it sends nothing then."""
        if self._ready and self._pipe is not None:
            asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._noticed)

    def _ignore_end(self) -> None:
        if self._pipe is not None and not self._pipe.closed:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())

    def _noticed(self) -> None:
        self._ignore_end()
        self._lost()
        self._on_lost()

    def _lost(self) -> None:
        self._ready, self._ended = False, True

    def _start(self, context: Any) -> Any:
        self._close()
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._set_up), name=self.name, daemon=True)
        self._process, self._ended = process, False
        try:
            process.start()
        finally:
            theirs.close()  # otherwise its end would not be noticed
        if self._stopped:
            process.kill()  # what stopped it may not have known its number
        return self._received()

    def _call(self, message: Any) -> Any:
        assert self._pipe is not None
        try:
            self._pipe.send(message)
        except OSError as error:
            self._lost()
            raise NotTakenError("the process that computes was lost; try once more") from error
        return self._received()

    def _received(self) -> Any:
        assert self._pipe is not None
        try:
            outcome, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._lost()
            raise WorkerLostError("the process that computes was lost with this request; try once more") from error
        except Exception:  # too large for the memory: what follows would be taken for the next result
            self._ready = False
            raise
        if outcome == _LAST_FAULT:
            self._lost()
        if outcome != _RETURNED:
            raise value
        return value

    def _close(self) -> None:
        """End the process, if it has not ended, and close what is left of it."""
        self._end()
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None and self._process.pid is not None:
            self._process.join(_STOP_SECONDS)
            with contextlib.suppress(ValueError):  # it has not ended
                self._process.close()
        self._process = self._pipe = None


def _work(pipe: Connection, set_up: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run functions until the pipe is closed. Signals to a group of processes are the server's to follow."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    set_up_worker(0)
    try:
        state = set_up(*arguments)
        answer: tuple[int, Any] = (_RETURNED, state.described)
    except Exception as error:  # noqa: BLE001 (it is sent)
        if not isinstance(error, TransXNetError):
            _LOG.error("the process could not be set up", exc_info=error)
        pipe.send((_LAST_FAULT, _set_up_fault(error)))
        return
    while True:
        try:
            pipe.send(answer)
            if answer[0] == _LAST_FAULT:
                os._exit(1)
            del answer  # it may be large
            function, given = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer = (_RETURNED, function(state, *given))
        except Exception as error:  # noqa: BLE001
            answer = (_LAST_FAULT if _breaks_device(error) else _FAULT, _fault(error))
        del given


def _set_up_fault(error: Exception) -> TransXNetError:
    """An error that can be sent."""
    if isinstance(error, TransXNetError):
        return ConfigError(error.for_commands)
    if _is_out_of_memory(error):
        return FailedError("there is not enough memory for the network")
    return FailedError(f"the network cannot be opened ({type(error).__name__})")


def _fault(error: Exception) -> RequestFault:
    """An error that can be sent and shown; an unexpected one is logged with its traceback, and its text kept back."""
    if isinstance(error, RequestFault):
        return error
    _LOG.error("an image could not be computed", exc_info=error)
    if _is_out_of_memory(error):
        return FailedError("the memory was not enough for the image; send a smaller one")
    return FailedError("the image could not be computed; the server's log has the reason")


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _breaks_device(error: Exception) -> bool:
    """Whether nothing further can be computed on the GPU."""
    return "CUDA error" in str(error) and not _is_out_of_memory(error)
