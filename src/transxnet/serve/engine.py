"""From an accepted image to its answer: decoding, a queue, batches, and the processes that compute."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from transxnet.api.preparation import Preparation, Prepared
from transxnet.serve import work
from transxnet.serve.batching import BatchQueue
from transxnet.serve.faults import (
    FailedError,
    InvalidParameterError,
    OverloadedError,
    RequestFault,
    StartingError,
    StoppingError,
    TooSlowError,
    UnsupportedOptionError,
)
from transxnet.serve.process import WorkerProcess
from transxnet.serve.settings import ServerSettings
from transxnet.serve.work import Opened, Wanted

_LOG = logging.getLogger("transxnet.serve")
_WAITING_BODIES = 8  # bytes that wait to be decoded, in bodies of the maximum size
_WAITING_IMAGES = 2  # decoded bytes that wait for the network, in images of the maximum size
_BANDS = 3
_OPENING_SECONDS = 3  # before a network was opened for the first time
_MAX_LABEL = 200


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Body:
    """An image that waits to be decoded.

    Attributes:
        name: Its name.
        content: Its bytes.
        answer: Receives the image that is ready for the network.
    """

    name: str
    content: bytes = field(repr=False)
    answer: asyncio.Future[Prepared] = field(default_factory=_future, repr=False)


@dataclass(eq=False)
class Job:
    """An image that waits for the network.

    Attributes:
        image: The image.
        wanted: What is wanted for it.
        explains: Whether its heat map is computed rather than its prediction.
        answer: Receives the answer.
        began: When it began to wait.
    """

    image: Prepared
    wanted: Wanted
    explains: bool = False
    answer: asyncio.Future[dict[str, Any]] = field(default_factory=_future, repr=False)
    began: float = field(default_factory=time.monotonic)


class Engine:
    """Answers for images, computed in other processes.

    Args:
        network: Arguments of :class:`~transxnet.api.prediction.Predictor`.
        settings: Settings of the server.

    Attributes:
        opened: The network's description, once the engine has started.
        stopping: Whether no further images are accepted.
        pending: Images that are accepted and not answered.
        observe: Called with a name and a value: "batch_size" and "network_seconds" of a batch, "decode_seconds" and
            "queue_seconds" of an image, "restarts" with 1.
        prepares: Whether the network's processes import what heat maps need before one is wanted.
    """

    prepares = True

    def __init__(self, network: dict[str, Any], settings: ServerSettings) -> None:
        self.settings = settings
        self.opened: Opened | None = None
        self.stopping = False
        self.pending = 0
        self.observe: Callable[[str, float], None] = lambda name, value: None
        self._queue: BatchQueue[Job] = BatchQueue(settings.max_batch, settings.max_wait / 1000)
        self._bodies: BatchQueue[Body] = BatchQueue(1, 0)
        self._networks = [
            WorkerProcess(
                f"network-{index}", work.NetworkState, network, settings.replicas, self.prepares,
                on_lost=self._queue.wake, on_restart=self._restarted,
            )
            for index in range(settings.replicas)
        ]  # fmt: skip
        self._decoders: list[WorkerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._bytes = 0
        self._unanswered: set[Job | Body] = set()

    @property
    def waiting(self) -> int:
        """Images that wait for the network."""
        return len(self._queue)

    async def start(self) -> Opened:
        """Open the network, and start everything.

        Raises:
            TransXNetError: If the network cannot be opened, or the engine is stopped meanwhile; nothing is left then.
        """
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> Opened:
        first, *others = self._networks
        opened: Opened = await first.start()
        self._check_not_stopping()
        self._decoders = [self._decoder(index, opened.preparation) for index in range(self.settings.decoders)]
        await asyncio.gather(*(one.start() for one in (*others, *self._decoders)))
        self._check_not_stopping()
        self.opened = opened
        loops = [self._compute(one) for one in self._networks] + [self._decode(one) for one in self._decoders]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        return opened

    def _decoder(self, index: int, preparation: Preparation) -> WorkerProcess:
        return WorkerProcess(
            f"decoder-{index}", work.DecodingState, preparation, self.settings.max_pixels,
            self.settings.decoder_bytes, on_lost=self._bodies.wake, on_restart=self._restarted,
        )  # fmt: skip

    def check_accepting(self) -> None:
        """Raise a RequestFault if no further images are accepted; while a lost network is opened again, they are."""
        self._check_not_stopping()
        if self.opened is None:
            raise StartingError("the network is being opened; try again soon", retry_after=_OPENING_SECONDS)
        if any(all(one.failures for one in processes) for processes in (self._networks, self._decoders)):
            raise StartingError("the network could not be opened again yet; try again later", retry_after=5)

    def check_ready(self) -> None:
        """Raise a RequestFault if images are not accepted, or would have to wait for a network to be opened again."""
        self.check_accepting()
        if not any(network.alive for network in self._networks):
            raise StartingError("the network is being opened again; try again soon", self._seconds_to_another_try())

    def _check_not_stopping(self) -> None:
        if self.stopping:
            raise StoppingError("the server is stopping; send the request to another one", retry_after=1)

    def _seconds_to_another_try(self) -> int:
        """Seconds after which another image may be accepted: a step or, of a lost network, its opening."""
        if any(network.alive for network in self._networks):
            return 1
        return max(1, math.ceil(min(network.start_seconds for network in self._networks)))

    async def answer(self, name: str, content: bytes, wanted: Wanted) -> dict[str, Any]:
        """The answer for an image's bytes; cancelled, it is not computed unless that has begun.

        Raises:
            RequestFault: If there is none.
        """
        self._check(wanted, len(content))
        self.pending += 1
        self._bytes += len(content)
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = Body(name, content)
                image: Prepared = await self._answered(self._bodies, None, body)
                answer: dict[str, Any] = await self._computed(Job(image, wanted))
                if wanted.explain:
                    answer["gradcam"] = await self._computed(Job(image, wanted, explains=True))
                return answer
        except TimeoutError:
            raise TooSlowError(
                f"the image was not computed within {self.settings.timeout:g} seconds; send fewer at once, or allow "
                "more with --timeout"
            ) from None
        finally:
            self.pending -= 1
            self._bytes -= len(content)

    async def stop(self) -> None:
        """End all processes at once; what is not answered gets a StoppingError."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        for process in (*self._networks, *self._decoders):
            process.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        fault = StoppingError("the server has stopped; send the request to another one", retry_after=1)
        _fail(self._unanswered, fault)

    def _check(self, wanted: Wanted, size: int) -> None:
        """Raise a RequestFault if an image is not accepted."""
        self.check_accepting()
        assert self.opened is not None
        description = self.opened.description
        if wanted.request.features and not description.supports["features"]:
            raise UnsupportedOptionError("this network gives no features; leave features out")
        if wanted.explain and not description.supports["gradcam"]:
            raise UnsupportedOptionError(
                "heat maps are computed for classifiers from checkpoints, where the server has the extra "
                '"analysis"; leave explain out'
            )
        if len(wanted.label) > _MAX_LABEL:
            raise InvalidParameterError(f"the class has {len(wanted.label):,} characters; give its name or index")
        if self.pending >= self.settings.max_queue:
            raise OverloadedError(
                f"{self.pending} images are waiting already; try again soon, or send fewer at once",
                self._seconds_to_another_try(),
            )
        if self.pending and self._bytes + size > _WAITING_BODIES * self.settings.max_bytes:
            raise OverloadedError(
                "too many large images are waiting already; try again soon", self._seconds_to_another_try()
            )

    async def _computed(self, job: Job) -> dict[str, Any]:
        answer: dict[str, Any] = await self._answered(
            self._queue, None if job.explains else self._group(job.image), job
        )
        return answer

    async def _answered(self, queue: BatchQueue[Any], group: Hashable, item: Job | Body) -> Any:
        """The answer for an item of a queue, which leaves it if nobody waits for it any longer."""
        self._unanswered.add(item)
        queue.put(group, item)
        try:
            return await item.answer
        finally:
            queue.discard(group, item)
            self._unanswered.discard(item)

    def _group(self, image: Prepared) -> Hashable:
        """Images of one group share a batch; None for one that has none.

        On a CPU, several images of a detector or segmenter take as long as one after the other, and the first would
        wait for the last.
        """
        assert self.opened is not None
        description = self.opened.description
        return image.group if description.task == "classification" or description.device != "cpu" else None

    async def _decode(self, decoder: WorkerProcess) -> None:
        """Decode images in one process for as long as the server runs."""
        budget = _WAITING_IMAGES * _BANDS * self.settings.max_pixels
        while True:
            await decoder.keep()
            while sum(job.image.pixels.nbytes for job in self._queue) >= budget:
                self._queue.removed.clear()
                await self._queue.removed.wait()
            for body in await self._bodies.take():
                began = time.monotonic()
                try:
                    image = await self._run(decoder, work.decode, body.name, body.content)
                except RequestFault as fault:
                    _fail([body], fault)
                else:
                    _answer(body, image)
                self.observe("decode_seconds", time.monotonic() - began)
            await asyncio.sleep(0)  # for the image to be in the queue, whose bytes are counted

    async def _compute(self, network: WorkerProcess) -> None:
        """Compute batches in one process for as long as the server runs."""
        while True:
            await network.keep()
            if jobs := await self._queue.take():
                await self._compute_batch(network, jobs)

    async def _run(self, process: WorkerProcess, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await process.run(function, *arguments, limit=self.settings.timeout)
        except RequestFault:
            raise
        except Exception as error:
            _LOG.error("%s could not be used", process.name, exc_info=error)
            raise FailedError("the image could not be computed; the server's log has the reason") from error

    def _restarted(self) -> None:
        self.observe("restarts", 1)

    async def _compute_batch(self, network: WorkerProcess, jobs: list[Job]) -> None:
        began = time.monotonic()
        function = work.explain if jobs[0].explains else work.predict
        images, wanted = [job.image for job in jobs], [job.wanted for job in jobs]
        try:
            answers = await self._run(network, function, images, wanted)
        except RequestFault as fault:
            if len(jobs) == 1 or not isinstance(fault, FailedError):
                _fail(jobs, fault)
                return
            for job in jobs:  # one of them is at fault
                if not job.answer.done():
                    await self._compute_batch(network, [job])
            return
        self.observe("batch_size", len(jobs))
        self.observe("network_seconds", time.monotonic() - began)
        for job, answer in zip(jobs, answers, strict=True):
            self.observe("queue_seconds", began - job.began)
            _answer(job, answer)


def _answer(item: Job | Body, answer: Any) -> None:
    if not item.answer.done():
        item.answer.set_result(answer)


def _fail(items: Iterable[Job | Body], fault: RequestFault) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(fault)
