"""Requests under way: which are accepted, and what ends them early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from transxnet.serve.engine import Engine
from transxnet.serve.faults import OverloadedError, StoppingError

Result = TypeVar("Result")


class UnderWay:
    """Requests that are being received or answered.

    Args:
        engine: What answers them.
        maximum: Requests beyond which further ones are refused.

    Attributes:
        stopping: Whether further requests are refused because the server is about to end.
    """

    def __init__(self, engine: Engine, maximum: int) -> None:
        self.stopping = False
        self._engine = engine
        self._maximum = maximum
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cut_off = False

    def __len__(self) -> int:
        return len(self._tasks)

    def check_ready(self) -> None:
        """Raise a RequestFault if further requests are refused, or would have to wait for the network."""
        self._check_not_stopping()
        self._engine.check_ready()

    def _check_not_stopping(self) -> None:
        if self.stopping:
            raise StoppingError("the server is stopping; send the request to another one", retry_after=1)

    @asynccontextmanager
    async def accepted(self) -> AsyncIterator[None]:
        """For as long as the context lasts, the request of this task is under way.

        Raises:
            RequestFault: If it is refused, or when it is cut off.
        """
        self._check_not_stopping()
        self._engine.check_accepting()
        if len(self) >= self._maximum:
            raise OverloadedError(f"{len(self)} requests are under way already; try again soon", retry_after=1)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
            task.uncancel()
            raise StoppingError("the server ended before the answer; try another one", retry_after=1) from None
        finally:
            self._tasks.discard(task)

    async def finished(self) -> None:
        """Return when no request is under way, and the last answers are sent."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """End all requests under way."""
        self._cut_off = True
        for task in self._tasks:
            task.cancel()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work for a request whose body was received; it is cancelled when the client goes away.

    Raises:
        ClientDisconnect: In that case.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
