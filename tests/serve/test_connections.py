"""Connections that are slow, broken or too many, over sockets to a server in a thread."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.serving import Running, StubEngine, error_of, eventually, one_reply, post, rest, running, status_of

QUICK: dict[str, Any] = {"receive_timeout": 0.3, "max_megabytes": 0.1, "max_connections": 8}
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server with short times."""
    with running(**QUICK) as server:
        yield server


@pytest.fixture(autouse=True)
def lives_on(server: Running) -> Iterator[None]:
    """The server answers after each test, and has no connection left."""
    yield
    assert status_of(server.reply(GET + b"Connection: close\r\n\r\n")) == 200
    eventually(lambda: not server.server.server_state.connections)


CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


def test_a_chunked_body_is_answered_and_an_endless_one_cut_off(server: Running) -> None:
    assert (
        status_of(server.reply(CHUNKED.replace(b"Host", b"Connection: close\r\nHost") + b"1\r\n1\r\n0\r\n\r\n")) == 200
    )
    with server.connect(CHUNKED) as connection, contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sendall(b"1000\r\n" + b"1" * 4096 + b"\r\n")
        assert error_of(rest(connection))["code"] == "body-too-large"


def test_a_client_that_sends_nothing_is_closed_and_one_that_sends_headers_slowly_is_refused(server: Running) -> None:
    assert server.reply(b"") == b""
    with server.connect(GET) as connection:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + 0.4:  # a time since the beginning, not since the last line
                connection.sendall(b"X: y\r\n")
                time.sleep(0.03)
        assert error_of(rest(connection))["code"] == "slow-request"


def test_the_time_of_headers_counts_for_each_request_of_a_connection(server: Running) -> None:
    with server.connect(GET + b"\r\n") as connection:
        assert status_of(one_reply(connection)) == 200
        time.sleep(0.35)  # idle between requests: allowed
        connection.sendall(GET)
        assert error_of(rest(connection))["code"] == "slow-request"


def test_a_body_that_arrives_too_slowly_is_refused(server: Running) -> None:
    reply = server.reply(post(b"1" * 100)[:-50])
    assert error_of(reply)["code"] == "slow-request" and b"connection: close" in reply.lower()


def test_a_body_that_ends_too_early_is_an_error(server: Running) -> None:
    for sent in (post(b"1" * 100)[:-50], CHUNKED + b"5\r\n12", GET):
        with server.connect(sent) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert error_of(rest(connection))["code"] == "bad-request"


def test_the_body_of_a_request_that_takes_none_is_ignored(server: Running) -> None:
    sent = GET + b"Content-Length: 100000\r\n\r\n" + b"1" * 100
    reply = server.reply(sent)
    assert status_of(reply) == 200 and b"connection: close" in reply.lower()


def test_requests_on_one_connection_are_answered_in_turn_also_when_sent_at_once(server: Running) -> None:
    reply = server.reply(post(b"first") + GET + b"\r\n" + post(b"third", "image/png", "/predict", "Connection: close"))
    assert reply.count(b"HTTP/1.1 200") == 3
    assert [content for _, content, _ in server.engine.asked][-2:] == [b"first", b"third"]


def test_a_client_that_does_not_read_is_cut_off(server: Running) -> None:
    size = 10_000_000
    server.engine.opened.description.classes[:] = ["x" * size]
    try:
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: server.server.server_state.connections)
            eventually(lambda: not server.server.server_state.connections)
        assert len(server.reply(b"GET /model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")) > size
    finally:
        server.engine.opened.description.classes[:] = ["cat", "dog"]


def test_websockets_are_not_spoken(server: Running) -> None:
    sent = GET + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    assert status_of(server.reply(sent)) == 200  # as the plain request that it is


def test_too_many_connections_are_refused_but_idle_ones_make_room(server: Running) -> None:
    silent = [server.connect() for _ in range(QUICK["max_connections"] - 1)]
    try:
        eventually(lambda: len(server.server.server_state.connections) == len(silent))
        with server.connect(GET + b"\r\n") as idle:
            assert status_of(one_reply(idle)) == 200
            silent.append(server.connect())
            assert idle.recv(1) == b""  # closed in favour of the new one
        eventually(lambda: len(server.server.server_state.connections) == QUICK["max_connections"])
        refused = server.reply(b"")
        assert error_of(refused)["code"] == "overloaded" and b"retry-after: 1" in refused.lower()
    finally:
        for connection in silent:
            connection.close()
    with server.client() as client:
        assert 'transxnet_requests_total{route="none",status="503"} 1.0' in client.get("/metrics").text


def test_the_work_of_a_client_that_has_gone_is_cancelled() -> None:
    engine = StubEngine()
    engine.released.clear()
    with running(engine) as server:
        with server.connect(post(b"1")):
            eventually(lambda: engine.pending)
        eventually(lambda: engine.cancelled)
        assert not engine.pending
        engine.released.set()
        with server.client() as client:
            assert 'transxnet_requests_total{route="/predict",status="499"} 1.0' in client.get("/metrics").text
