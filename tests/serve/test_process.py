"""A worker process of the server: what it runs, and what is left when it is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers import serving_work
from helpers.engines import has_ended, stored
from helpers.processes import FORKED
from transxnet.api.preparation import Preparation
from transxnet.data.worker_processes import worker_context
from transxnet.errors import ConfigError, TransXNetError
from transxnet.serve import process, work
from transxnet.serve.faults import FailedError, TooSlowError, UnreadableImageError, WorkerLostError
from transxnet.serve.process import WorkerProcess

Create = Callable[..., WorkerProcess]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def create(runner: asyncio.Runner) -> Iterator[Create]:
    """``create(set_up, ...)`` is a process that is stopped at the end."""
    created = []

    def worker(set_up: Any = serving_work.State, *arguments: Any, **settings: Any) -> WorkerProcess:
        created.append(WorkerProcess("worker", set_up, *arguments, **settings))
        created[-1].first_delay, created[-1].longest_delay = 0.001, 0.004
        return created[-1]

    yield worker

    async def stop() -> None:
        for one in created:
            one.stop()

    runner.run(stop())


def left() -> tuple[list[str], int]:
    """Open files and threads of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir()), threading.active_count()


async def end_of(pid: int | None) -> None:
    while not has_ended(pid):
        await asyncio.sleep(0.005)


def test_it_runs_functions_and_their_errors_leave_it_as_it_is(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create(serving_work.State, "a description")
        assert await worker.start() == "a description"
        pid = worker.pid
        for kind, error, words in (
            ("fault", UnreadableImageError, "no image"),
            ("memory", FailedError, "memory"),
            ("secret", FailedError, "log has the reason"),
        ):
            with pytest.raises(error, match=words) as caught:
                await worker.run(serving_work.fail, kind)
            assert "/secret" not in str(caught.value)
            assert await worker.run(serving_work.echo, kind) == kind
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # as a group of processes gets them
            os.kill(pid or 0, number)
        assert await worker.run(serving_work.echo, 5) == 5
        assert worker.pid == pid

    runner.run(use())


def test_nothing_is_run_on_a_device_that_is_broken(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create()
        await worker.start()
        pid = worker.pid
        with pytest.raises(FailedError):
            await worker.run(serving_work.fail, "device")
        assert await worker.run(serving_work.echo, 5) == 5
        assert worker.pid != pid

    runner.run(use())


@pytest.mark.parametrize("function", [serving_work.die, serving_work.hang])
def test_what_it_runs_is_lost_with_it_and_it_is_started_again(
    function: Any, runner: asyncio.Runner, create: Create
) -> None:
    async def use() -> None:
        worker = create()
        await worker.start()
        pid = worker.pid
        limit = 0.05 if function is serving_work.hang else None
        with pytest.raises(WorkerLostError if limit is None else TooSlowError):
            await worker.run(function, limit=limit)
        assert not worker.alive
        assert await worker.run(serving_work.echo, 5) == 5
        assert worker.pid != pid
        assert has_ended(pid)

    runner.run(use())


def test_it_is_lost_while_it_writes_a_large_result(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create(serving_work.breaks_off)
        await worker.start()
        with pytest.raises(WorkerLostError):
            await worker.run(serving_work.zeros, 10**6)
        assert await worker.run(serving_work.zeros, 10) == bytes(10)

    runner.run(use())


def test_a_loss_is_noticed_when_nothing_is_run(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        lost, restarted = asyncio.Event(), asyncio.Event()
        worker = create(on_lost=lost.set, on_restart=restarted.set)
        await worker.start()
        os.kill(worker.pid or 0, signal.SIGKILL)
        await lost.wait()
        assert not worker.alive and not restarted.is_set()
        assert await worker.run(serving_work.echo, 5) == 5
        assert restarted.is_set()

    runner.run(use())


def test_what_kills_it_when_it_is_taken_is_given_up(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create(serving_work.chokes)
        await worker.start()
        with pytest.raises(WorkerLostError):
            await worker.run(serving_work.echo, bytes(10**6))
        assert await worker.run(serving_work.echo, 5) == 5

    runner.run(use())


def test_it_is_killed_when_nobody_waits_for_it(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create()
        await worker.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.run(serving_work.hang), 0.05)
        assert await worker.run(serving_work.echo, 5) == 5

    runner.run(use())


def test_it_is_started_again_when_there_are_files_again(
    runner: asyncio.Runner, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), RuntimeError("can't start new thread")]

    def context(preload: str) -> Any:
        if missing:
            raise missing.pop()
        return worker_context(preload)

    async def use() -> None:
        worker = create()
        monkeypatch.setattr(process, "worker_context", context)
        with pytest.raises(WorkerLostError, match="thread"):
            await worker.start()
        assert await worker.run(serving_work.echo, 5) == 5
        assert not missing

    runner.run(use())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_an_image_that_takes_too_much_memory_is_refused(runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create(work.DecodingState, Preparation({"input_size": (3, 32, 32)}), 10**9, 2**23)
        await worker.start()
        pid = worker.pid
        for form in ("PNG", "GIF"):
            with pytest.raises(UnreadableImageError, match="memory"):
                await worker.run(work.decode, "large", stored(Image.new("RGB", (3000, 2000)), form))
        image = await worker.run(work.decode, "small", stored(Image.new("RGB", (50, 30))))
        assert image.size == (50, 30) and worker.pid == pid

    runner.run(use())


@pytest.mark.parametrize(
    ("set_up", "error"), [(serving_work.dies, WorkerLostError), (serving_work.needs_file, ConfigError)]
)
def test_a_start_that_fails_says_so(set_up: Any, error: Any, runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        worker = create(set_up, *(["missing"] if error is ConfigError else []))
        with pytest.raises(error):
            await worker.start()
        assert (worker.alive, worker.failures) == (False, 1)

    runner.run(use())


def test_it_is_started_until_it_can_be(runner: asyncio.Runner, create: Create, tmp_path: Path) -> None:
    async def use() -> None:
        network = tmp_path / "network"
        worker = create(serving_work.needs_file, str(network))
        running = asyncio.create_task(worker.run(serving_work.echo, 5))
        while worker.failures < 3:
            await asyncio.sleep(0.005)
        network.touch()
        assert await running == 5
        assert worker.failures == 0

    runner.run(use())


def test_waits_between_starts_double_up_to_a_maximum(
    runner: asyncio.Runner, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    waits: list[float] = []

    async def start() -> None:
        worker.failures += 1
        raise TransXNetError("no")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            raise EnoughError

    worker = create()
    worker.first_delay, worker.longest_delay = WorkerProcess.first_delay, WorkerProcess.longest_delay
    monkeypatch.setattr(worker, "start", start)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(EnoughError):
        runner.run(worker.keep())
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("moment", ["start", "run", "idle"])
def test_nothing_is_left_after_a_stop(moment: str, runner: asyncio.Runner, create: Create) -> None:
    async def use() -> None:
        warm = create()
        await warm.start()  # what all processes share
        warm.stop()
        await asyncio.sleep(0)
        before = left()
        worker = create(serving_work.never_ready if moment == "start" else serving_work.State)
        started = asyncio.create_task(worker.start())
        running = None
        if moment == "start":
            while worker.pid is None:
                await asyncio.sleep(0.005)
        else:
            await started
        if moment == "run":
            running = asyncio.create_task(worker.run(serving_work.hang))
            await asyncio.sleep(0.01)
        pid = worker.pid
        worker.stop()
        for task in filter(None, (started if moment == "start" else None, running)):
            with pytest.raises(WorkerLostError):
                await task
        assert has_ended(pid) and not worker.alive
        assert left() == before
        for start in (worker.start(), worker.run(serving_work.echo, 5)):
            with pytest.raises(WorkerLostError, match="stopped"):
                await start

    runner.run(use())


def _serve(pids: Any, hangs: bool) -> None:
    """A server that is killed, or ends without stopping its processes."""

    async def serve() -> None:
        workers = [WorkerProcess("worker", serving_work.State) for _ in range(2)]
        for worker in workers:
            await worker.start()
        pids.send([worker.pid for worker in workers])
        if hangs:
            await workers[0].run(serving_work.hang)

    asyncio.run(serve())


@pytest.mark.slow  # the server starts a process to fork from, which takes seconds
@pytest.mark.parametrize("killed", [True, False])
def test_processes_of_a_server_end_with_it(killed: bool, runner: asyncio.Runner) -> None:
    ours, theirs = FORKED.Pipe(duplex=False)
    server = FORKED.Process(target=_serve, args=(theirs, killed))
    server.start()
    pids = ours.recv()
    if killed:
        assert not any(map(has_ended, pids))
        server.kill()
    server.join(60)
    assert server.exitcode == (-signal.SIGKILL if killed else 0)

    async def ends() -> None:
        await asyncio.gather(*map(end_of, pids))

    runner.run(asyncio.wait_for(ends(), 60))
