"""Bad requests of many kinds to a server with a network: each gets its error, and the next good one its answer."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import multiprocessing.forkserver
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transxnet
from helpers.image_files import with_exif
from helpers.networks import nano
from helpers.serving import Running, error_of, picture, post, rest, running, status_of
from transxnet.serve.engine import Engine
from transxnet.serve.settings import ServerSettings

LIMITS: dict[str, Any] = {
    "max_megabytes": 2.0,
    "max_megapixels": 4.0,
    "max_images": 4,
    "receive_timeout": 0.25,
    "max_wait": 0.0,
    "token": "",
}
MEMORY = 1_500_000_000
"""Bytes that no process of the server may reach."""

GROWTH = 400_000_000
"""Bytes by which this process may grow."""


def get(target: str, *more: str, method: str = "GET", host: str = "localhost") -> bytes:
    """A request without a body, as it is sent."""
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", *more, "", "")).encode()


def image(content: bytes, kind: str = "image/png", target: str = "/predict") -> bytes:
    """A request with an image."""
    return post(content, kind, target, "Connection: close")


def form(*parts: bytes, end: bytes = b"--x--\r\n", kind: str = "multipart/form-data; boundary=x") -> bytes:
    """A request with a form."""
    return image(b"".join(parts) + end, kind)


def part(disposition: str, body: bytes, *more: str) -> bytes:
    """A part of a form."""
    head = "\r\n".join(("--x", f"Content-Disposition: form-data; {disposition}", *more))
    return head.encode() + b"\r\n\r\n" + body + b"\r\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    """A PNG file that states a size, and holds some bytes of pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A JPEG file of many scans, each of which is decoded for all pixels."""
    content = picture("JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * 5000 + content[-2:]


def animation(kind: str, frames: int) -> bytes:
    """An animation of different frames."""
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8)) for _ in range(frames)]
    file = io.BytesIO()
    images[0].save(file, kind, save_all=True, append_images=images[1:], duration=10)
    return file.getvalue()


def wide_webp() -> bytes:
    """A WebP file that states a canvas of 2^14 pixels' side."""
    content = bytearray(animation("WEBP", 2))
    content[24:30] = (2**14 - 1).to_bytes(3, "little") * 2
    return bytes(content)


def slow(sent: bytes) -> Callable[[socket.socket], None]:
    """Sends the beginning at once, and the rest byte by byte, for ever."""

    def send(connection: socket.socket) -> None:
        connection.sendall(sent[:40])
        for index in range(40, len(sent)):
            connection.sendall(sent[index : index + 1])
            time.sleep(0.02)

    return send


def endless(connection: socket.socket) -> None:
    """Sends chunks until it is cut off."""
    connection.sendall(CHUNKED)
    for _ in range(1000):
        connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def half_closed(connection: socket.socket) -> None:
    """Ends before the length that it has stated."""
    connection.sendall(post(picture())[:-10])
    connection.shutdown(socket.SHUT_WR)


CHUNKED = image(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
GOOD = part('name="a"; filename="a.png"', picture())
NAMES = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "AVIF")
MASSIVE = zlib.compress(bytes(50_000_000), 9)


@dataclass(frozen=True)
class Kind:
    """A kind of bad request.

    Attributes:
        name: Its name.
        sent: What is sent, or what sends it.
        statuses: Statuses that are right.
    """

    name: str
    sent: bytes | Callable[[socket.socket], None]
    statuses: tuple[int, ...]


def _images() -> Iterator[Kind]:
    unread = (415, 422)
    yield Kind("PNG of 60000 x 60000 pixels", image(png(60000, 60000, bytes(3_000_000))), (422,))
    yield Kind("PNG with fewer pixels than stated", image(png(1500, 1500, bytes(10))), (422,))
    yield Kind(
        "PNG with massive compressed text", image(png(8, 8, bytes(72), chunk(b"zTXt", b"a\0\0" + MASSIVE))), (200, 422)
    )
    yield Kind(
        "PNG with a massive profile", image(png(8, 8, bytes(72), chunk(b"iCCP", b"a\0\0" + MASSIVE))), (200, 422)
    )
    yield Kind("PNG without a size", image(png(0, 0, b"")), unread)
    yield Kind("GIF of 65535 x 65535 pixels", image(b"GIF89a\xff\xff\xff\xff" + animation("GIF", 2)[10:]), (422,))
    yield Kind("GIF of many frames", image(animation("GIF", 500), "image/gif"), (200, 422))
    yield Kind("animated WebP", image(animation("WEBP", 50), "image/webp"), (200, 422))
    yield Kind("WebP with a huge canvas", image(wide_webp(), "image/webp"), unread)
    yield Kind("JPEG of many scans", image(many_scans(), "image/jpeg"), (422,))
    huge = [(270, 2, 0xFFFFFFF0, b"\x08\0\0\0"), (700, 1, 0x7FFFFFFF, b"\x08\0\0\0")]
    yield Kind("TIFF with huge tags", image(with_exif("TIFF", huge), "image/tiff"), (200, 422))
    yield Kind(
        "TIFF of a huge size", image(with_exif("TIFF", [(256, 4, 1, b"\xff\xff\xff\x7f")]), "image/tiff"), (422,)
    )
    yield Kind("PPM of a huge size", image(b"P6 60000 60000 255\n" + bytes(1000), "image/x-portable-pixmap"), (422,))
    bmp = bytearray(picture("BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    yield Kind("BMP of a huge size", image(bytes(bmp), "image/bmp"), (422,))
    for name in NAMES:
        content = picture(name)
        yield Kind(f"half of {name}", image(content[: len(content) // 2], f"image/{name.lower()}"), unread)
    yield Kind(
        "SVG",
        image(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "image/svg+xml"),
        unread,
    )
    yield Kind("PDF as PNG", image(b"%PDF-1.7\n%%EOF"), unread)
    yield Kind("HEIC", image(b"\0\0\0\x18ftypheic" + bytes(200), "image/heic"), unread)
    yield Kind("PostScript", image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png"), unread)
    yield Kind("HTML as JPEG", image(b"<html>", "image/jpeg"), unread)
    yield Kind("empty body", image(b""), unread)
    yield Kind("zeros", image(bytes(100_000), "application/octet-stream"), unread)
    yield Kind("gzip named as an image", image(gzip.compress(picture())), unread)


def _bodies() -> Iterator[Kind]:
    yield Kind("JSON", image(b'{"image": "aGk="}', "application/json"), (415,))
    yield Kind("a URL", image(b"url=http://127.0.0.1/", "application/x-www-form-urlencoded"), (415,))
    yield Kind("gzip", post(gzip.compress(picture()), "image/png", "/predict", "Content-Encoding: gzip"), (415,))
    yield Kind("too large", image(bytes(2_000_001)), (413,))
    yield Kind("stated too large", image(b"").replace(b"Length: 0", b"Length: 99999999999"), (413,))
    yield Kind("endless", endless, (413,))
    yield Kind("form without boundary", form(GOOD, kind="multipart/form-data"), (400,))
    yield Kind("form of another boundary", form(GOOD, kind="multipart/form-data; boundary=other"), (400,))
    yield Kind("form without end", form(GOOD, end=b""), (400,))
    yield Kind("form cut in a file", form(GOOD[:-20], end=b""), (400,))
    yield Kind("nested form", form(part('name="a"', b"", "Content-Type: multipart/mixed; boundary=y")), (422,))
    yield Kind("form of 10,000 parts", form(part('name="a"', b"1") * 10_000), (400, 413))
    yield Kind("form of too many files", form(GOOD * 5), (422,))
    yield Kind("form of text only", form(part('name="image"', picture())), (422,))
    yield Kind("file of a form without a name", form(part('filename="a.png"', picture())), (400,))
    yield Kind("file name that is a path", form(part('name="a"; filename="../../etc/passwd"', b"no image")), (415, 422))
    broken = part('name="a"; filename="a\r\nX-Evil: 1\r\n.png"', b"no image")
    yield Kind("file name with line ends", form(broken), (400, 415, 422))
    yield Kind("file name of 1 MB", form(part(f'name="a"; filename="{"n" * 10**6}"', picture())), (400,))
    yield Kind("file name with zeros", form(part('name="a"; filename="a\0b"', b"no image")), (400, 415, 422))
    yield Kind("empty file name", form(part('name="a"; filename=""', b"")), (415, 422))
    yield Kind("parameters in a form", form(GOOD, part('name="top"', b"3")), (422,))


def _queries() -> Iterator[Kind]:
    content = picture()
    for query in (
        "top=0", "top=-1", "top=1e9", "top=NaN", "top[]=1", "top=1&top=2", "min_score=NaN", "min_score=-0.1",
        "min_score=", "explain=everything", "stage=0", "stage=five", "features=perhaps", "unknown=1",
        "class=" + "x" * 1000, "%00=1",
    ):  # fmt: skip
        yield Kind(f"?{query[:40]}", image(content, target=f"/predict?{query}"), (422,))
    emoji = "%F0%9F%90%88%E2%80%8D%E2%AC%9B"
    yield Kind("class with emoji", image(content, target=f"/predict?class={emoji}"), (200, 422))
    yield Kind("class of 1 MB", image(content, target="/predict?class=" + "x" * 10**6), (431,))


def _requests() -> Iterator[Kind]:
    headers = tuple(f"X-{index}: y" for index in range(10_000))
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%00",
    ):
        yield Kind(f"GET {path}", get(path, "Connection: close"), (404,))
    yield Kind("DELETE", get("/predict", "Connection: close", method="DELETE"), (405,))
    yield Kind("GET of /predict", get("/predict", "Connection: close"), (405,))
    yield Kind("unknown method", get("/healthz", "Connection: close", method="BREW"), (405,))
    yield Kind("other host", get("/model", "Connection: close", host="evil.example"), (400,))
    yield Kind("two hosts", get("/model", "Host: evil.example"), (400,))
    yield Kind("no host", b"GET /model HTTP/1.1\r\n\r\n", (400,))
    yield Kind("other origin", get("/model", "Origin: https://evil.example", "Connection: close"), (403,))
    yield Kind("absolute form", get("http://localhost/model"), (400,))
    yield Kind("CONNECT", get("localhost:443", method="CONNECT"), (400,))
    upgrade = (
        "Connection: close, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    )
    yield Kind("websocket", get("/predict", *upgrade), (405,))
    yield Kind("HTTP/0.9", b"GET /\r\n\r\n", (400,))
    yield Kind("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", (400,))
    yield Kind("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), (400,))
    yield Kind("zeros for a request", bytes(100), (400,))
    yield Kind("zero in a header", get("/model", "A: b\0c"), (400,))
    yield Kind("line end in a header", get("/model", "A: b\rc"), (400,))
    yield Kind("space in a header's name", get("/model", "A : b"), (400,))
    yield Kind("long line that is no header", get("/model", "y" * 50_000), (400,))
    yield Kind("10,000 headers", get("/model", *headers), (431,))
    yield Kind("header of 1 MB", get("/model", "X: " + "y" * 10**6), (431,))
    yield Kind("length and chunks", post(b"0\r\n\r\n", "image/png", "/predict", "Transfer-Encoding: chunked"), (400,))
    yield Kind("two lengths", post(b"1", "image/png", "/predict", "Content-Length: 2"), (400,))
    yield Kind("negative length", post(b"1").replace(b"Length: 1", b"Length: -1"), (400,))
    yield Kind("length in words", post(b"1").replace(b"Length: 1", b"Length: one"), (400,))
    yield Kind("length beyond the body", half_closed, (400,))
    yield Kind("length below the body", image(picture()).replace(b"Length: ", b"Length: 9\r\nX: "), (415, 422))
    yield Kind("unknown encoding", post(b"1", "image/png", "/predict", "Transfer-Encoding: gzip"), (400,))
    for size in (b"zz", b"-5", b"f" * 40, b"5;" + b"x" * 70_000):
        yield Kind(f"chunk of {size[:10]!r} bytes", CHUNKED + size + b"\r\n1234567\r\n0\r\n\r\n", (400, 431))
    yield Kind("slow headers", slow(get("/model", *headers[:20])), (408,))
    yield Kind("slow body", slow(post(picture())), (408,))


KINDS = [*_images(), *_bodies(), *_queries(), *_requests()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a small network."""
    path = tmp_path_factory.mktemp("served") / "nano.safetensors"
    transxnet.save_model(nano(), path)
    engine = Engine({"checkpoint": str(path), "fuse": False}, ServerSettings(port=0, **LIMITS))
    with running(engine, start=True, **LIMITS) as server:
        before = peak("self")
        yield server
        assert peak("self") < before + GROWTH
        workers = _workers()
        assert len(workers) >= 2 and all(peak(one) < MEMORY for one in workers)


@pytest.mark.parametrize("kind", KINDS, ids=[one.name for one in KINDS])
def test_a_bad_request_gets_its_error_and_a_good_one_its_answer_after_it(
    kind: Kind, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), server.connect() as connection:
        with contextlib.suppress(ConnectionError):
            if callable(kind.sent):
                kind.sent(connection)
            else:
                connection.sendall(kind.sent)
        reply = rest(connection)
        if status_of(reply) != 200:
            error = error_of(reply)
            assert error["message"].isprintable() and len(error["message"]) < 1000 and "Traceback" not in str(error)
        assert status_of(reply) in kind.statuses, reply[-500:]
        assert status_of(server.reply(image(picture()))) == 200
    assert not caplog.records


def peak(process: int | str) -> int:
    """Peak of a process's resident memory in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError(process)


def _workers() -> list[int]:
    """The processes that were forked for this one."""
    pid: Any = vars(multiprocessing.forkserver._forkserver)["_forkserver_pid"]
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
