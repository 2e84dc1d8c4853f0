"""uvicorn, which announces the address, and answers what it has accepted before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from transxnet.errors import ConfigError
from transxnet.serve.app import create_app
from transxnet.serve.connections import connections
from transxnet.serve.engine import Engine
from transxnet.serve.observed import log_to_standard_error
from transxnet.serve.settings import ServerSettings
from transxnet.serve.under_way import UnderWay

KEEP_ALIVE = 65
"""Seconds that a connection waits for another request: longer than the 60 of usual load balancers, which would
otherwise send requests on connections that are being closed."""

_SENDING = 1.0
"""Seconds for answers to be sent when their time is over."""


class Server(uvicorn.Server):
    """A server that drains at the first signal, while it still listens and refuses, and ends at the second.

    Args:
        engine: The engine.
        settings: The settings.

    Attributes:
        under_way: The requests under way.
        ended_by: The signal that ended the server at once, if one did.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        app = create_app(engine, settings, start=False)
        super().__init__(
            uvicorn.Config(
                app,
                http=connections(settings, app.state.metrics.refused),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self.under_way: UnderWay = app.state.under_way
        self.ended_by: int | None = None
        self._drain_seconds = settings.drain
        self._draining: asyncio.Task[None] | None = None
        app.state.metrics.connections = lambda: len(self.server_state.connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are followed by :meth:`signals`, from before the network is opened."""
        yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP end the server."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def end(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.end, number)

        before = {number: signal.signal(number, end) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Refuse further work, and end when what is under way is answered; at once when called again."""
        if self._draining is None:
            self.under_way.stopping = True
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self.ended_by = number
            self.under_way.cut_off()
            self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        try:
            async with asyncio.timeout_at(end):
                await self.under_way.finished()
        except TimeoutError:
            self.under_way.cut_off()
        self.config.timeout_graceful_shutdown = math.ceil(max(end - loop.time(), _SENDING))
        self.should_exit = True


async def serve(engine: Engine, settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal. While the network is being opened, requests for predictions get 503.

    Args:
        engine: The engine, which is started and stopped.
        settings: The settings.
        announce: Called with the address once images are accepted.

    Raises:
        TransXNetError: If the network cannot be opened.
        ConfigError: If the port is taken.
        SystemExit: At a second signal.
    """
    log_to_standard_error()
    listening = listen(settings)
    server = Server(engine, settings)
    with server.signals(), listening:
        serving = asyncio.create_task(server.serve([listening]))
        opening = asyncio.create_task(engine.start())
        try:
            await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
            if opening.done() and not server.should_exit:
                opening.result()
                announce(address_of(listening))
            await serving
        finally:
            server.should_exit = True
            await engine.stop()
            await asyncio.gather(opening, return_exceptions=True)
            await serving
    if server.ended_by is not None:
        raise SystemExit(128 + server.ended_by)


def ending_signals() -> list[signal.Signals]:
    """Signals that end a server: Ctrl-C, SIGTERM and, unless ``nohup`` has it ignored, the end of the terminal."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens on the address; raises ConfigError if that cannot be had."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]  # Python repeats the address
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {why}; choose another --port (0: any free one) or "
            "--host"
        ) from error


def address_of(listening: socket.socket) -> str:
    """The address of a socket that listens, for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
