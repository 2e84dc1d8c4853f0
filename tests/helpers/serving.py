"""Servers for tests: an engine without a network, and a server in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import numpy as np
from PIL import Image

from transxnet.serve.answers import ModelDescription
from transxnet.serve.app import create_app
from transxnet.serve.engine import Engine
from transxnet.serve.faults import RequestFault
from transxnet.serve.server import Server, listen
from transxnet.serve.settings import ServerSettings

DESCRIPTION = ModelDescription.model_validate(
    {
        "name": "transxnet_nano",
        "task": "classification",
        "checkpoint": "nano.safetensors",
        "classes": ["cat", "dog"],
        "colours": [],
        "input": {"width": 224, "height": 224},
        "channels": 3,
        "precision": "float32",
        "fused": True,
        "runtime": "PyTorch",
        "device": "cpu",
        "parameters": 1,
        "stages": 4,
        "supports": {"gradcam": True, "features": True},
        "top": 2,
        "min_score": 0.5,
    }
)


@dataclass
class Opened:
    """Stands for what an engine knows of its network."""

    description: ModelDescription


@dataclass
class StubEngine:
    """Answers at once; waits until it is released; or raises.

    Attributes:
        fault: Called with the image's bytes for an exception to raise, if any.
        released: Cleared to let answers wait.
        asked: Name, bytes and wishes of each image.
        cancelled: Images whose answers were cancelled.
    """

    fault: Callable[[bytes], Exception | None] = lambda content: None
    released: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, bytes, Any]] = field(default_factory=list)
    cancelled: int = 0
    pending: int = 0
    waiting: int = 0
    observe: Callable[[str, float], None] = lambda name, value: None
    stopping: bool = False
    opened: Opened | None = field(default_factory=lambda: Opened(DESCRIPTION))
    not_ready: RequestFault | None = None

    def __post_init__(self) -> None:
        self.released.set()

    async def start(self) -> Any:
        return self.opened

    async def stop(self) -> None:
        self.stopping = True

    def check_ready(self) -> None:
        if self.not_ready is not None:
            raise self.not_ready

    check_accepting = check_ready

    async def answer(self, name: str, content: bytes, wanted: Any) -> dict[str, Any]:
        self.asked.append((name, content, wanted))
        self.pending += 1
        try:
            while not self.released.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.pending -= 1
        if (error := self.fault(content)) is not None:
            raise error
        answers = [{"class": "cat", "probability": 0.9}]
        return {"image": name, "width": 4, "height": 3, "answers": answers}

    @property
    def engine(self) -> Engine:
        """As the server takes it."""
        return cast("Engine", self)


def client_of(engine: Any = None, *, base: str = "http://127.0.0.1:8000", **settings: Any) -> httpx.AsyncClient:
    """A client of an application in this process."""
    app = create_app(engine or StubEngine().engine, ServerSettings(**settings))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=base)


def asked(method: str, path: str, engine: Any = None, *, base: str = "http://127.0.0.1:8000", **given: Any) -> Any:
    """The answer of an application in this process to one request; settings in ``settings``."""
    settings = given.pop("settings", {})

    async def ask() -> httpx.Response:
        async with client_of(engine, base=base, **settings) as client:
            return await client.request(method, path, **given)

    return asyncio.run(ask())


@dataclass
class Running:
    """A server in a thread.

    Attributes:
        server: The server.
        port: Its port.
        engine: Its engine.
        loop: Its event loop.
        thread: Its thread.
    """

    server: Server
    port: int
    engine: Any
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection that has sent something."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(sent)
        return connection

    def reply(self, sent: bytes) -> bytes:
        """All that comes back until the server closes the connection."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            return rest(connection)

    def end(self) -> None:
        """As at a first signal."""
        self.loop.call_soon_threadsafe(self.server.end)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)


@contextlib.contextmanager
def running(engine: Any = None, *, start: bool = False, **settings: Any) -> Iterator[Running]:
    """A server in a thread, which ends with the context.

    Args:
        engine: Its engine; one that answers at once by default.
        start: Whether the engine is to be started and stopped.
        **settings: The server's.
    """
    given = ServerSettings(port=0, **settings)
    engine = engine or StubEngine()
    listening = listen(given)
    ready: threading.Event = threading.Event()
    found: list[Running] = []

    async def serve() -> None:
        if start:
            await engine.start()
        server = Server(engine, given)
        found.append(
            Running(server, listening.getsockname()[1], engine, asyncio.get_running_loop(), threading.current_thread())
        )
        try:
            await asyncio.gather(server.serve([listening]), _when_started(server, ready))
        finally:
            if start:
                await engine.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        if found and thread.is_alive():
            with contextlib.suppress(RuntimeError):
                found[0].loop.call_soon_threadsafe(_end_now, found[0].server)
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


def rest(connection: socket.socket) -> bytes:
    """All that a connection gives until it is closed or reset."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def one_reply(connection: socket.socket) -> bytes:
    """One answer, of a connection that stays open."""
    received = b""
    while (head := received.partition(b"\r\n\r\n"))[1] == b"" or len(head[2]) < _length(head[0]):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head.lower())
    assert found
    return int(found[1])


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def status_of(reply: bytes) -> int:
    """The status of an answer."""
    return int(reply.split(b" ", 2)[1])


def error_of(reply: bytes) -> dict[str, Any]:
    """The error in an answer, whose form is checked."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), reply[:500]
    error: dict[str, Any] = json.loads(body)["error"]
    assert sorted(error) == ["code", "message", "status"] and error["status"] == status_of(reply), error
    return error


def post(body: bytes, kind: str = "image/png", target: str = "/predict", *more: str) -> bytes:
    """A request for a prediction, as it is sent."""
    lines = (
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *more,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def picture(form: str = "PNG", side: int = 40, **options: Any) -> bytes:
    """An image file of coloured noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side + 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


async def _when_started(server: Server, ready: threading.Event) -> None:
    while not server.started and not server.should_exit:
        await asyncio.sleep(0.002)
    ready.set()


def _end_now(server: Server) -> None:
    server.should_exit = server.force_exit = True
