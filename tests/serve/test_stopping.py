"""The end of a server: what is under way is answered, the rest refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from helpers.serving import Running, StubEngine, error_of, one_reply, picture, post, rest, running, status_of

READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


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


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line that serves a small network."""
    import timm

    import transxnet

    folder = tmp_path_factory.mktemp("served")
    model = timm.create_model("transxnet_nano", num_classes=2).eval()
    transxnet.save_model(model, folder / "nano.safetensors")
    return [sys.executable, "-m", "transxnet", "serve", "--checkpoint", str(folder / "nano.safetensors"), "--port", "0"]


def test_signals_end_the_command_with_status_0_and_no_process_left(command: list[str], tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            workers = psutil.Process(process.pid).children(recursive=True)
            assert workers
            answers: list[int] = []

            def ask() -> None:
                answer = httpx.post(f"{address}/predict", files={"a": picture()}, timeout=60)
                answers.append(answer.status_code)

            asking = [threading.Thread(target=ask) for _ in range(4)]
            for one in asking:
                one.start()
            assert httpx.get(f"{address}/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            for one in asking:
                one.join()
            assert process.wait(60) == 0, errors.read_text()
        finally:
            process.kill()
    assert set(answers) <= {200, 503} and errors.read_text() == ""
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
