"""From an accepted image to its answer: decoding, a queue, batches, and the processes that compute."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from transxnet.api.preparation import Prepared
from transxnet.serve import work
from transxnet.serve.batching import BatchQueue
from transxnet.serve.faults import (
    FailedError,
    OverloadedError,
    RequestFault,
    StartingError,
    StoppingError,
    TooSlowError,
    WorkerLostError,
)
from transxnet.serve.process import WorkerProcess
from transxnet.serve.settings import ServerSettings
from transxnet.serve.work import Opened, Wanted


@dataclass(eq=False)
class Job:
    """An image that waits for the network.

    Attributes:
        image: The image.
        wanted: What is wanted for it.
        answer: Receives the answer.
    """

    image: Prepared
    wanted: Wanted
    answer: asyncio.Future[dict[str, Any]] = field(repr=False)

    @property
    def group(self) -> Hashable:
        """Jobs of one group can share a batch."""
        return self.image.group


class Engine:
    """Answers for images, computed in other processes.

    Args:
        network: Arguments of :class:`~transxnet.api.prediction.Predictor`.
        settings: Settings of the server.

    Attributes:
        opened: The network's description, once the engine has started.
        stopping: Whether no further images are accepted.
        pending: Images that are accepted and not answered.
    """

    def __init__(self, network: dict[str, Any], settings: ServerSettings) -> None:
        self.settings = settings
        self.opened: Opened | None = None
        self.stopping = False
        self.pending = 0
        self._queue: BatchQueue[Job] = BatchQueue(settings.max_batch, settings.max_wait / 1000)
        threads = max(1, (os.cpu_count() or 1) // settings.replicas)
        self._networks = [
            WorkerProcess(f"network-{index}", work.NetworkState, network, threads) for index in range(settings.replicas)
        ]
        self._decoders: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._all_decoders: list[WorkerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Opened:
        """Open the network, and start everything.

        Raises:
            TransXNetError: If the network cannot be opened.
        """
        first, *others = self._networks
        opened: Opened = await first.start()
        self.opened = opened
        for index in range(self.settings.decoders):
            decoder = WorkerProcess(
                f"decoder-{index}", work.DecodingState, opened.preparation, self.settings.max_pixels
            )
            self._all_decoders.append(decoder)
            self._decoders.put_nowait(decoder)
        await asyncio.gather(*(one.start() for one in (*others, *self._all_decoders)))
        self._tasks = [asyncio.create_task(self._compute(network)) for network in self._networks]
        return opened

    def check_ready(self) -> None:
        """Raise a RequestFault if images are not accepted now."""
        if self.stopping:
            raise StoppingError("the server is stopping; send the request to another one", retry_after=1)
        if self.opened is None or not any(network.alive for network in self._networks):
            raise StartingError("the network is being opened; try again soon", retry_after=1)

    async def answer(self, name: str, content: bytes, wanted: Wanted) -> dict[str, Any]:
        """The answer for an image's bytes.

        Raises:
            RequestFault: If there is none.
        """
        if self.stopping:
            self.check_ready()
        if self.pending >= self.settings.max_queue:
            raise OverloadedError(
                f"{self.pending} images are waiting already; try again soon, or send fewer at once", retry_after=1
            )
        self.pending += 1
        try:
            async with asyncio.timeout(self.settings.timeout):
                image = await self._decoded(name, content)
                job = Job(image, wanted, asyncio.get_running_loop().create_future())
                self._queue.put(job.group, job)
                return await job.answer
        except TimeoutError:
            raise TooSlowError(
                f"the image was not computed within {self.settings.timeout:g} seconds; send fewer at once, or allow "
                "more with --timeout"
            ) from None
        finally:
            self.pending -= 1

    async def drain(self) -> None:
        """Accept nothing further, and return when everything accepted is answered."""
        self.stopping = True
        while self.pending:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all processes."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        for process in (*self._networks, *self._all_decoders):
            process.stop()

    async def _decoded(self, name: str, content: bytes) -> Prepared:
        decoder = await self._decoders.get()
        try:
            if not decoder.alive:
                await decoder.start()
            image: Prepared = await decoder.run(work.decode, name, content)
            return image
        finally:
            self._decoders.put_nowait(decoder)

    async def _compute(self, network: WorkerProcess) -> None:
        """Compute batches in one process for as long as the server runs, starting it again when it is lost."""
        while True:
            if not network.alive:
                try:
                    await network.start()
                except RequestFault:
                    await asyncio.sleep(1)
                    continue
            jobs = [job for job in await self._queue.take() if not job.answer.done()]
            if jobs:
                await self._compute_batch(network, jobs)

    async def _compute_batch(self, network: WorkerProcess, jobs: list[Job]) -> None:
        images, wanted = [job.image for job in jobs], [job.wanted for job in jobs]
        try:
            answers = await network.run(work.predict, images, wanted)
        except WorkerLostError as error:
            _fail(jobs, error)
        except RequestFault as error:
            if len(jobs) == 1 or not isinstance(error, FailedError):
                _fail(jobs, error)
                return
            for job in jobs:  # one of them is at fault
                await self._compute_batch(network, [job])
        else:
            for job, answer in zip(jobs, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)


def _fail(jobs: list[Job], error: RequestFault) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
