"""The HTTP interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile

from transxnet.api.batches import Request as NetworkRequest
from transxnet.serve.engine import Engine
from transxnet.serve.faults import InvalidParameterError, RequestFault
from transxnet.serve.settings import ServerSettings
from transxnet.serve.work import Wanted
from transxnet.text import unicode_text
from transxnet.version import __version__

STATIC = files("transxnet.serve") / "static"


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """The application around an engine, which it starts if that was not done, and stops at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if engine.opened is None:
            await engine.start()
        yield
        await engine.stop()

    app = FastAPI(title="TransXNet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestFault)
    async def refused(request: Request, fault: RequestFault) -> JSONResponse:
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return JSONResponse(error_of(fault), fault.status, headers)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """Whether images are accepted."""
        engine.check_ready()
        return {"status": "ready"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """The network and the server's limits."""
        assert engine.opened is not None
        limits = {"bytes": settings.max_bytes, "pixels": settings.max_pixels, "images": settings.max_images}
        return engine.opened.description.model_dump() | {"limits": limits}

    @app.post("/predict")
    async def predict(
        request: Request,
        top: Annotated[int | None, Query(ge=1)] = None,
        min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
        explain: Literal["", "gradcam"] = "",
        stage: str = "last",
        label: Annotated[str, Query(alias="class")] = "",
        features: bool = False,
    ) -> Response:
        """Predict for an image, or for several in a form."""
        began = time.perf_counter()
        wanted = Wanted(NetworkRequest(top, min_score, features), explain, stage, label)
        images = await images_of(request)
        found = await asyncio.gather(
            *(engine.answer(name, content, wanted) for name, content in images), return_exceptions=True
        )
        predictions = [_prediction(name, one) for (name, _), one in zip(images, found, strict=True)]
        faults = [one for one in found if isinstance(one, BaseException)]
        if len(faults) == len(found):
            raise faults[0]
        assert engine.opened is not None
        return JSONResponse(
            {
                "task": engine.opened.description.task,
                "predictions": predictions,
                "seconds": {"total": time.perf_counter() - began},
            }
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(str(STATIC / "index.html"))

    app.mount("/static", StaticFiles(directory=str(STATIC)), name="static")
    return app


async def images_of(request: Request) -> list[tuple[str, bytes]]:
    """Names and bytes of the images in a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return [("image 0", await request.body())]
    form = await request.form()
    uploads = [value for value in form.values() if isinstance(value, UploadFile)]
    if not uploads:
        raise InvalidParameterError("the form has no file; add one with the image")
    return [(unicode_text(one.filename or f"image {i}"), await one.read()) for i, one in enumerate(uploads)]


def error_of(fault: RequestFault) -> dict[str, Any]:
    """An error as JSON."""
    return {"error": {"status": fault.status, "code": fault.code, "message": fault.message}}


def _prediction(name: str, found: dict[str, Any] | BaseException) -> dict[str, Any]:
    if isinstance(found, RequestFault):
        return {"image": name, **error_of(found)}
    if isinstance(found, BaseException):
        raise found
    return found
