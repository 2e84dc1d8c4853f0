"""What worker processes of the server run in tests, well and badly."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transxnet.api.preparation import Prepared
from transxnet.errors import ConfigError
from transxnet.serve import work
from transxnet.serve.faults import UnreadableImageError
from transxnet.serve.work import NetworkState, Wanted

_SENT = 1000  # bytes of a result before the process is lost


class State:
    """A state that describes itself by its argument."""

    def __init__(self, described: Any = "ready") -> None:
        self.described = described


def needs_file(path: str) -> State:
    if not Path(path).exists():
        raise ConfigError("there is no network")
    return State()


def dies() -> State:
    die()
    raise AssertionError


def never_ready() -> State:
    wait()
    raise AssertionError


def breaks_off() -> State:
    """A state of a process that is lost while it writes a large result."""
    send = Connection._send  # type: ignore[attr-defined]

    def some(pipe: Connection, content: bytes, *rest: Any) -> None:
        if len(content) > _SENT:
            send(pipe, content[:_SENT])
            die()
        send(pipe, content, *rest)

    Connection._send = some  # type: ignore[attr-defined]
    return State()


def chokes() -> State:
    """A state of a process that is lost while it reads a large message."""
    receive = Connection._recv  # type: ignore[attr-defined]

    def some(pipe: Connection, size: int, *rest: Any) -> Any:
        if size > _SENT:
            die()
        return receive(pipe, size, *rest)

    Connection._recv = some  # type: ignore[attr-defined]
    return State()


def echo(state: State, value: Any) -> Any:
    return value


def zeros(state: State, count: int) -> bytes:
    return bytes(count)


def fail(state: State, kind: str) -> None:
    errors: dict[str, Exception] = {
        "fault": UnreadableImageError("no image"),
        "memory": MemoryError(),
        "device": RuntimeError("CUDA error: an illegal memory access was encountered"),
        "secret": RuntimeError("/secret/path"),
    }
    raise errors[kind]


def hang(state: State) -> None:
    wait()


def die(state: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    time.sleep(600)


def predict(state: NetworkState, images: list[Prepared], wanted: list[Wanted]) -> list[dict[str, Any]]:
    """The network's answers, with the process's number; names of images ask for accidents."""
    names = {image.name for image in images}
    if "die" in names:
        die()
    if "hang" in names:
        wait()
    if "memory" in names:
        raise MemoryError
    if "bad" in names:
        raise RuntimeError("a bad image")
    if "slow" in names:
        time.sleep(0.2)
    return [one | {"pid": os.getpid(), "batch": len(images)} for one in work.predict(state, images, wanted)]


def decode(state: work.DecodingState, name: str, content: bytes) -> Prepared:
    if name == "die decoding":
        die()
    if name == "hang decoding":
        wait()
    return work.decode(state, name, content)
