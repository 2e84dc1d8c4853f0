"""Clients of `transxnet serve` for benchmarks/serving.py: plain sockets in one process, with little work for each."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

LOST = 0
"""Status of a request whose connection ended before the answer, or that got none within :data:`PATIENCE`."""

PATIENCE = 90.0
"""Seconds that a client waits for an answer."""


def pictures(count: int, side: int = 224) -> list[bytes]:
    """JPEG files of about 20 kB: shapes and textures, each with other colours."""
    generator, files = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((side, side), 3)
        grain = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        mixed = Image.blend(coarse, grain.filter(ImageFilter.GaussianBlur(0.6)), 0.22)
        file = io.BytesIO()
        mixed.save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


def request(
    body: bytes, *, target: str = "/predict", method: str = "POST", kind: str = "image/jpeg", length: int | None = None
) -> bytes:
    """The bytes of a request."""
    size = len(body) if length is None else length
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Bad:
    """A request that is not answered with 200.

    Attributes:
        name: Its kind.
        content: Its bytes.
        statuses: Statuses that are right.
        leaves: Whether the client closes the connection without waiting for an answer.
    """

    name: str
    content: bytes
    statuses: tuple[int, ...]
    leaves: bool = False


def bad_requests(picture: bytes) -> list[Bad]:
    """Requests of each kind."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + size))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(size)) + b"IHDR" + size + check
    form = b'--x\r\nContent-Disposition: form-data; name="a"; filename="../../a.jpg"\r\n\r\nnothing\r\n--x--\r\n'
    return [
        Bad("no image", request(b"no image" * 100), (415,)),
        Bad("half an image", request(picture[: len(picture) // 2]), (422,)),
        Bad("empty body", request(b""), (400, 422)),
        Bad("too many pixels", request(bomb), (422,)),
        Bad("a text", request(b"words", kind="text/plain"), (415,)),
        Bad("no image in a form", request(form, kind="multipart/form-data; boundary=x"), (415,)),
        Bad("a broken form", request(b"--y\r\n\r\n", kind="multipart/form-data; boundary=x"), (400, 422)),
        Bad("a parameter out of range", request(picture, target="/predict?top=0"), (422,)),
        Bad("an unknown address", request(picture, target="/predictions"), (404,)),
        Bad("another method", request(b"", method="PUT"), (405,)),
        Bad("too large a body", request(b"", length=10**10), (413,)),
        Bad("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (400, LOST)),
        Bad("a body that stops", request(picture[:500], length=len(picture)), (LOST,), leaves=True),
        Bad("headers that stop", b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-", (LOST,), leaves=True),
    ]


class Connection:
    """A connection that is kept, and opened again when the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, content: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body of the answer.

        Raises:
            OSError, asyncio.IncompleteReadError: If the connection ends before the answer, or none comes in time.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._send(content)
        except (OSError, asyncio.IncompleteReadError):  # a TimeoutError is an OSError
            self.close()
            raise

    async def _send(self, content: bytes) -> tuple[int, bytes]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server has closed it
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        reader, writer = self._streams
        writer.write(content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.find(b"content-length:")
        body = await reader.readexactly(int(head[length + 15 : head.index(b"\r", length)])) if length > 0 else b""
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    async def leave(self, content: bytes) -> None:
        """Send the start of a request, and close."""
        self.close()
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(content)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: Duration.
        cpu: Seconds of processor time of the clients.
        latencies: Seconds of each answer with status 200.
        good: Statuses of good requests.
        bad: Statuses of bad requests, by name.
        wrong: Bad requests that were not answered as they should be.
        events: Start, end and status of each good request, on the clock of ``time.perf_counter``.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    good: Counter[int] = field(default_factory=Counter)
    bad: dict[str, Counter[int]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    events: list[tuple[float, float, int]] = field(default_factory=list)


async def load(
    port: int,
    files: list[bytes],
    clients: int,
    seconds: float,
    *,
    bad_share: float = 0.0,
    keep_events: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Load:
    """Send requests from so many clients, each of which waits for its answer before the next request.

    Args:
        port: The server's.
        files: Images.
        clients: Number of clients.
        seconds: Duration; what was sent before its end is waited for.
        bad_share: Share of bad requests.
        keep_events: Whether to keep each request's times.
        stop: Whether a client whose request was lost stops.
    """
    found, good, bad = Load(), [request(file) for file in files], bad_requests(files[0])
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        connection, generator, turn = Connection(port), np.random.default_rng(number), number
        while time.perf_counter() < end:
            if bad_share and generator.random() < bad_share:
                await _send_bad(connection, bad[generator.integers(len(bad))], found)
                continue
            turn += 1
            status = await _send_good(connection, good[turn % len(good)], found, keep_events)
            if status == LOST and stop():
                break
            if status != 200:
                await asyncio.sleep(0.05)
        connection.close()

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, range(clients)))
    found.seconds, found.cpu = time.perf_counter() - began, time.process_time() - used
    return found


async def _send_good(connection: Connection, content: bytes, found: Load, keep_event: bool) -> int:
    began = time.perf_counter()
    try:
        status, body = await connection.send(content)
        if status == 200 and b'"answers"' not in body:
            status = -1
    except (OSError, asyncio.IncompleteReadError):
        status = LOST
    now = time.perf_counter()
    found.good[status] += 1
    if status == 200:
        found.latencies.append(now - began)
    if keep_event:
        found.events.append((began, now, status))
    return status


async def _send_bad(connection: Connection, bad: Bad, found: Load) -> None:
    status = LOST
    if bad.leaves:
        await connection.leave(bad.content)
    else:
        with suppress(OSError, asyncio.IncompleteReadError):
            status, _ = await connection.send(bad.content)
    found.bad.setdefault(bad.name, Counter())[status] += 1
    if status not in bad.statuses:
        found.wrong[bad.name] += 1
