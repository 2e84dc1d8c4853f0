"""Losses, hanging and failures of the server's processes: what they cost, and that the server lives on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import serving_work
from helpers.engines import Running, has_ended, noise, stored
from helpers.exported_files import description, program
from transxnet.serve import work
from transxnet.serve.faults import (
    FailedError,
    StartingError,
    StoppingError,
    TooSlowError,
    WorkerLostError,
)
from transxnet.serve.process import WorkerProcess
from transxnet.serve.work import Wanted

CONTENT = stored(noise(48, 40))
PICKLED = {"predict": serving_work.predict, "decode": serving_work.decode}


@pytest.fixture(autouse=True)
def accidents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of images ask for accidents."""
    for name, function in PICKLED.items():
        monkeypatch.setattr(work, name, function)
    monkeypatch.setattr(WorkerProcess, "first_delay", 0.001)
    monkeypatch.setattr(WorkerProcess, "longest_delay", 0.004)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "a.onnx"
    path.write_bytes(program(description().to_json()).SerializeToString())
    return path


@pytest.fixture(scope="module")
def running(network: Path) -> Iterator[Running]:
    """An engine with batches of three, for which images wait as long as it takes."""
    with Running(network, max_batch=3, max_wait=10_000.0) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(network: Path) -> Iterator[Running]:
    """An engine that does not wait."""
    with Running(network, timeout=0.3) as running:
        yield running


def outcomes(running: Running, names: str) -> list[Any]:
    """The kind of each image's outcome: its error's type, or the size of its batch."""
    found = running.answers(*((name, CONTENT) for name in names.split()))
    return [one["batch"] if isinstance(one, dict) else type(one) for one in found]


def restarts(running: Running) -> int:
    return sum(name == "restarts" for name, _ in running.observed)


def test_a_lost_network_loses_its_batch_only(running: Running) -> None:
    before = restarts(running)
    found = outcomes(running, "a die b c d e")
    assert found == [WorkerLostError] * 3 + [3] * 3
    assert restarts(running) == before + 1


def test_a_lost_decoder_loses_its_image_only(running: Running) -> None:
    words = ["a", "die decoding", "b", "c"]
    found = running.answers(*((name, CONTENT) for name in words))
    assert [isinstance(one, WorkerLostError) for one in found] == [False, True, False, False]


@pytest.mark.parametrize("name", ["bad", "memory"])
def test_only_the_image_at_fault_fails(name: str, running: Running) -> None:
    assert outcomes(running, f"a {name} b") == [1, FailedError, 1]
    (fault, *_) = running.answers((name, CONTENT), ("a", CONTENT), ("b", CONTENT))
    assert ("memory" in fault.message) == (name == "memory")
    assert outcomes(running, "a b c") == [3, 3, 3]


@pytest.mark.parametrize("which", ["_networks", "_decoders"])
def test_a_process_that_is_lost_while_it_rests_loses_nothing(which: str, running: Running) -> None:
    (process,) = getattr(running.engine, which)

    async def lose() -> None:
        before = restarts(running)
        os.kill(process.pid, signal.SIGKILL)
        while restarts(running) == before:  # by itself, without a request
            await asyncio.sleep(0.005)
        running.engine.check_ready()

    running.run(lose())
    assert outcomes(running, "a b c") == [3, 3, 3]
    os.kill(process.pid, signal.SIGKILL)
    assert process._pipe.poll(60)  # it has ended, before the engine can notice
    assert outcomes(running, "a b c") == [3, 3, 3]


@pytest.mark.parametrize("name", ["hang", "hang decoding"])
def test_a_process_that_hangs_is_started_again(name: str, hasty: Running) -> None:
    (found,) = hasty.answers((name, CONTENT))
    assert isinstance(found, TooSlowError)
    before = restarts(hasty)

    async def restarted() -> None:
        while restarts(hasty) == before:
            await asyncio.sleep(0.005)

    hasty.run(restarted())
    hasty.engine.settings = type(hasty.engine.settings)(**{**vars(hasty.engine.settings), "timeout": 300.0})
    assert isinstance(hasty.answer(("a", CONTENT)), dict)
    hasty.engine.settings = type(hasty.engine.settings)(**{**vars(hasty.engine.settings), "timeout": 0.3})


def test_images_that_nobody_waits_for_are_not_computed(running: Running) -> None:
    engine = running.engine

    async def leave() -> list[dict[str, Any]]:
        tasks = [asyncio.create_task(engine.answer(name, CONTENT, Wanted())) for name in ("a", "die")]
        while engine.waiting < 2:
            await asyncio.sleep(0.005)
        tasks[1].cancel()
        tasks += [asyncio.create_task(engine.answer(name, CONTENT, Wanted())) for name in ("die decoding", "b", "c")]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (engine.pending, engine.waiting) == (0, 0)
        return [task.result() for task in tasks if not task.cancelled()]

    found = running.run(leave())
    assert [(one["image"], one["batch"]) for one in found] == [("a", 3), ("b", 3), ("c", 3)]


def test_images_are_accepted_while_a_lost_network_is_opened_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (process,) = running.engine._networks
    seconds: list[int | None] = []
    monkeypatch.setattr(process, "start_seconds", 2.5)
    wake = process._on_lost

    def lost() -> None:
        running.engine.check_accepting()
        with pytest.raises(StartingError) as caught:
            running.engine.check_ready()
        seconds.append(caught.value.retry_after)
        wake()

    async def lose() -> list[Any]:
        os.kill(process.pid or 0, signal.SIGKILL)
        while not seconds:
            await asyncio.sleep(0.005)
        return list(await asyncio.gather(*(running.engine.answer(name, CONTENT, Wanted()) for name in "abc")))

    monkeypatch.setattr(process, "_on_lost", lost)
    assert [one["batch"] for one in running.run(lose())] == [3, 3, 3]
    assert seconds == [3]  # as long as the network took to open


def test_a_network_that_cannot_be_opened_again_comes_back(network: Path) -> None:
    with Running(network) as running:
        (process,) = running.engine._networks
        away = network.rename(network.with_suffix(".away"))

        async def lose() -> None:
            os.kill(process.pid or 0, signal.SIGKILL)
            while process.failures < 2:
                await asyncio.sleep(0.005)
            with pytest.raises(StartingError):
                running.engine.check_ready()
            with pytest.raises(StartingError) as caught:
                await running.engine.answer("a", CONTENT, Wanted())
            assert caught.value.retry_after
            away.rename(network)
            while not process.alive:
                await asyncio.sleep(0.005)
            running.engine.check_ready()

        running.run(lose())
        assert isinstance(running.answer(("a", CONTENT)), dict)


def test_every_replica_computes(network: Path) -> None:
    with Running(network, replicas=2, decoders=2, max_batch=1) as running:
        found = running.answers(*[("slow", CONTENT)] * 6)
        assert len({one["pid"] for one in found}) == 2
        before = restarts(running)
        assert WorkerLostError in outcomes(running, "slow die slow slow")
        assert restarts(running) <= before + 1
        running.engine.check_ready()  # the other one is there


def test_decoded_images_that_wait_are_bounded(network: Path) -> None:
    """Nothing further is decoded until the network has taken what waits."""
    with Running(network, max_megapixels=0.002, max_wait=10_000.0) as running:

        async def ask() -> None:
            tasks = [asyncio.create_task(running.engine.answer(str(one), CONTENT, Wanted())) for one in range(4)]
            while not running.engine.waiting:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert [name for name, _ in running.observed] == ["decode_seconds"]
            assert (running.engine.waiting, running.engine.pending) == (1, 4)
            running.engine._queue.size = 1
            running.engine._queue.wake()
            assert len(await asyncio.gather(*tasks)) == 4

        running.run(ask())


def test_a_stop_leaves_no_request_without_an_answer(network: Path) -> None:
    with Running(network, max_batch=1) as running:

        async def stop() -> list[Any]:
            names = ("hang", "b", "hang decoding", "d")
            tasks = [asyncio.create_task(running.engine.answer(name, CONTENT, Wanted())) for name in names]
            while running.engine.waiting < 1:
                await asyncio.sleep(0.005)
            await running.engine.stop()
            found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
            return found

        found = running.run(stop())
        assert [type(one) for one in found] == [StoppingError] * 4


def test_nothing_is_left_of_a_stopped_engine(network: Path) -> None:
    def left() -> list[str]:
        return sorted(path.name for path in Path("/proc/self/fd").iterdir())

    before = left()
    with Running(network, replicas=2, max_batch=1) as running:
        running.answers(*[("a", CONTENT)] * 3)
        pids = [process.pid for process in (*running.engine._networks, *running.engine._decoders)]
    assert left() == before
    assert all(map(has_ended, pids))
