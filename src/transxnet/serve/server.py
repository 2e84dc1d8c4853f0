"""uvicorn, which announces the address, and answers what it has accepted before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from transxnet.errors import ConfigError
from transxnet.serve.app import create_app
from transxnet.serve.engine import Engine
from transxnet.serve.settings import ServerSettings


class Server(uvicorn.Server):
    """A server that drains its engine at the first signal, and ends at the second.

    Args:
        config: uvicorn's.
        engine: The engine.
        drain: Seconds for what is under way.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain: float) -> None:
        super().__init__(config)
        self.engine = engine
        self.drain = drain
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Refuse further work, and end when what is under way is answered; at once when called again."""
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain):
                await self.engine.drain()
        self.should_exit = True


async def serve(engine: Engine, settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal.

    Args:
        engine: The engine, which is started and stopped.
        settings: The settings.
        announce: Called with the address once requests are accepted.

    Raises:
        TransXNetError: If the network cannot be opened.
        ConfigError: If the port is taken.
    """
    listening = listen(settings)
    try:
        await engine.start()
        app = create_app(engine, settings)
        config = uvicorn.Config(app, http="h11", ws="none", log_level="warning", access_log=False)
        host, port = listening.getsockname()[:2]
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await Server(config, engine, settings.drain).serve([listening])
    finally:
        await engine.stop()
        listening.close()


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens on the address; raises ConfigError if that cannot be had."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port or --host"
        ) from error
