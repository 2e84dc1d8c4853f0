"""The end of a server: what is under way is answered, the rest refused."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import transxnet
from helpers.commands import run
from helpers.networks import nano
from helpers.serving import (
    Running,
    StubEngine,
    error_of,
    eventually,
    one_reply,
    picture,
    post,
    rest,
    running,
    status_of,
)
from transxnet.cli import serve as command

READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def held() -> StubEngine:
    """An engine that answers nothing until it is released."""
    engine = StubEngine()
    engine.released.clear()
    return engine


def has_ended(server: Running) -> bool:
    """Whether the server's thread ended in time."""
    server.thread.join(10)
    return not server.thread.is_alive()


def test_what_is_accepted_is_answered_and_new_work_is_refused_also_on_new_connections() -> None:
    engine = held()
    body = post(b"second")
    with running(engine) as server, server.connect(READY) as old, server.connect(post(b"first")) as first:
        assert status_of(one_reply(old)) == 200
        with server.connect(body[:-3]) as second:  # being received
            eventually(lambda: engine.pending == 1 and len(server.server.under_way) == 2)
            server.end()
            eventually(lambda: server.server.under_way.stopping)
            old.sendall(READY)
            for refused in (rest(old), server.reply(READY), server.reply(post(b"third"))):
                assert error_of(refused)["code"] == "stopping"
                assert b"connection: close" in refused.lower() and b"retry-after: 1" in refused.lower()
            second.sendall(body[-3:])
            eventually(lambda: engine.pending == 2)
            engine.released.set()
            assert [status_of(rest(one)) for one in (first, second)] == [200, 200]
        assert has_ended(server)
    assert [content for _, content, _ in engine.asked] == [b"first", b"second"]


def test_what_is_not_answered_in_time_is_cut_off_with_an_error() -> None:
    with running(held(), drain=0.1) as server, server.connect(post(b"1")) as connection:
        eventually(lambda: server.engine.pending)
        server.end()
        assert error_of(rest(connection))["code"] == "stopping"
        assert has_ended(server) and server.engine.cancelled == 1


def test_a_second_signal_ends_at_once() -> None:
    with running(held(), drain=60) as server, server.connect(post(b"1")):
        eventually(lambda: server.engine.pending)
        server.end()
        server.end()
        assert has_ended(server)
        assert server.server.ended_by == signal.SIGTERM


def test_an_idle_server_ends_with_silent_and_idle_connections_open() -> None:
    with running() as server, server.connect() as silent, server.connect(READY) as idle:
        assert status_of(one_reply(idle)) == 200
        server.end()
        assert rest(silent) == rest(idle) == b""
        assert has_ended(server)


class Signalled(StubEngine):
    """An engine that answers nothing, and whose start or first image is answered with signals to this process."""

    opens = True
    numbers: tuple[int, ...] = (signal.SIGTERM,)

    async def start(self) -> Any:
        if not self.opens:
            self._send()
            while not self.stopping:
                await asyncio.sleep(0.002)
        return self.opened

    async def answer(self, name: str, content: bytes, wanted: Any) -> Any:
        self._send()
        return await super().answer(name, content, wanted)

    def _send(self) -> None:
        for number in self.numbers:
            os.kill(os.getpid(), number)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signalled]:
    """The engine of the command, which is not run by ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are handled in the main thread")
    engine = Signalled()
    monkeypatch.setattr(command, "Engine", lambda *_: engine)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield engine
    signal.signal(signal.SIGHUP, before)


SERVE = ("serve", "--model", "transxnet_nano", "--no-fuse", "--port", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command_with_status_0_while_the_network_is_opened(
    number: int, signalled: Signalled, capsys: pytest.CaptureFixture[str]
) -> None:
    signalled.opens, signalled.numbers = False, (number,)
    assert run(*SERVE) == 0
    printed = capsys.readouterr()
    assert "http" not in printed.out and "Traceback" not in printed.err


@pytest.mark.parametrize(("count", "status"), [(1, 0), (2, 128 + signal.SIGTERM)])
def test_signals_end_the_command_after_its_work_or_at_once_when_repeated(
    count: int, status: int, signalled: Signalled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signalled.numbers = (signal.SIGTERM,) * count
    signalled.released.clear()
    answers: list[httpx.Response] = []

    def ask(address: str) -> None:
        answers.append(httpx.post(f"{address}/predict", files={"a": b"1"}, timeout=20))

    asking: list[threading.Thread] = []

    def announced(line: str) -> None:
        asking.append(threading.Thread(target=ask, args=re.findall(r"http://[\d.:]+", line)))
        asking[0].start()
        if count == 1:
            asking.append(threading.Timer(0.1, signalled.released.set))
            asking[1].start()

    monkeypatch.setattr(command, "say", announced)
    assert run(*SERVE) == status
    for one in asking:
        one.join()
    assert [one.status_code for one in answers] == [200 if count == 1 else 503]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_under_load_ends_the_command_and_all_its_processes(tmp_path: Path) -> None:
    transxnet.save_model(nano(), tmp_path / "nano.safetensors")
    options = ("--checkpoint", str(tmp_path / "nano.safetensors"), "--port", "0", "--no-fuse")
    line = [sys.executable, "-m", "transxnet", "serve", *options]
    errors = tmp_path / "errors"
    answers: list[int] = []
    with (
        errors.open("w") as file,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True) as process,
    ):
        try:
            assert process.stdout is not None
            (address,) = re.findall(r"http://[\d.:]+", process.stdout.readline())

            def ask() -> None:
                answers.append(httpx.post(f"{address}/predict", files={"a": picture()}, timeout=60).status_code)

            asking = [threading.Thread(target=ask) for _ in range(4)]
            for one in asking:
                one.start()
            eventually(lambda: "transxnet_under_way 0" not in httpx.get(f"{address}/metrics").text)
            process.send_signal(signal.SIGTERM)
            for one in asking:
                one.join()
            assert process.wait(60) == 0, errors.read_text()
        finally:
            process.kill()
    assert set(answers) <= {200, 503} and 200 in answers and "Traceback" not in errors.read_text()
    eventually(lambda: _has_no_process(process.pid))


def _has_no_process(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
