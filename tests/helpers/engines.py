"""Engines of the server with an event loop of their own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image

from transxnet.api.batches import Request
from transxnet.serve.engine import Engine
from transxnet.serve.faults import RequestFault
from transxnet.serve.settings import ServerSettings
from transxnet.serve.work import Wanted

Result = TypeVar("Result")


class Running:
    """An engine that has started.

    Args:
        checkpoint: The network's file.
        network: Further arguments of the predictor.
        **settings: Settings of the server.

    Attributes:
        engine: The engine.
        description: The network's.
        preparation: What makes images ready for it.
        observed: Names and values that it reported.
    """

    def __init__(self, checkpoint: Path, network: dict[str, Any] | None = None, **settings: Any) -> None:
        self.observed: list[tuple[str, float]] = []
        self._runner = asyncio.Runner()
        settings = {"max_wait": 0.0, "timeout": 300.0} | settings
        self.engine = self.run(self._engine({"checkpoint": str(checkpoint)} | (network or {}), settings))

    async def _engine(self, network: dict[str, Any], settings: dict[str, Any]) -> Engine:
        engine = Engine(network, ServerSettings(**settings))
        engine.observe = lambda name, value: self.observed.append((name, value))
        opened = await engine.start()
        self.description, self.preparation = opened.description, opened.preparation
        return engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.engine.stop())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something in the engine's event loop."""
        return self._runner.run(work)

    def answers(self, *images: tuple[str, bytes], wanted: Wanted | None = None) -> list[Any]:
        """Answers for images that are sent together, by names and bytes; a RequestFault for one that failed."""

        async def all_of_them() -> list[Any]:
            tasks = [self.engine.answer(*image, wanted or Wanted()) for image in images]
            found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
            return found

        found = self.run(all_of_them())
        unexpected = [one for one in found if isinstance(one, BaseException) and not isinstance(one, RequestFault)]
        assert not unexpected, unexpected
        return found

    def answer(self, image: tuple[str, bytes], **wanted: Any) -> Any:
        """The answer for an image; raises its RequestFault."""
        names = ("top", "min_score", "features")
        request = Request(**{name: wanted.pop(name) for name in names if name in wanted})
        (found,) = self.answers(image, wanted=Wanted(request, **wanted))
        if isinstance(found, RequestFault):
            raise found
        return found


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def stored(image: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    """An image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def has_ended(pid: int | None) -> bool:
    """Whether there is no such process, or only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
