"""The HTTP interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from transxnet.api.batches import Request as NetworkRequest
from transxnet.serve import descriptions
from transxnet.serve.answers import Answer
from transxnet.serve.bodies import Bodies, Upload
from transxnet.serve.descriptions import Options
from transxnet.serve.engine import Engine
from transxnet.serve.faults import (
    BadRequestError,
    InvalidParameterError,
    MethodNotAllowedError,
    NotFoundError,
    RequestFault,
    StartingError,
)
from transxnet.serve.metrics import CONTENT_TYPE, Metrics
from transxnet.serve.observed import Observed
from transxnet.serve.protections import Protected, Shared, allowed_origins, token_check
from transxnet.serve.settings import ServerSettings
from transxnet.serve.under_way import UnderWay, unless_gone
from transxnet.serve.work import Wanted
from transxnet.text import printable
from transxnet.version import __version__


def create_app(engine: Engine, settings: ServerSettings, *, start: bool = True) -> FastAPI:
    """The application around an engine.

    Any ASGI server can run it, and another application can mount it; then start and stop the engine in that
    application's lifespan, because those of mounted applications are not run. The limits on connections and on the
    time for a request's headers are those of the server: ``transxnet serve`` brings its own.

    Args:
        engine: The engine.
        settings: Settings of the server.
        start: Whether the engine is started and stopped with the application.

    Returns:
        The application. Its ``state`` has ``under_way``, the requests under way, and ``metrics``.
    """
    metrics = Metrics()
    under_way = UnderWay(engine, 2 * settings.max_queue)
    engine.observe = metrics.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if start and engine.opened is None:
            await engine.start()
        yield
        if start:
            await engine.stop()

    cors = Middleware(
        Shared,
        allow_origins=allowed_origins(settings),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    app = FastAPI(
        title="TransXNet",
        version=__version__,
        description=descriptions.ABOUT,
        lifespan=lifespan,
        docs_url=None,  # their pages are fetched from other servers
        redoc_url=None,
        middleware=[
            Middleware(Observed, settings, metrics, under_way),
            *([cors] if settings.cors else []),
            Middleware(Protected, settings),
        ],
        exception_handlers={HTTPException: _http_error, RequestValidationError: _invalid_parameter},
        generate_unique_id_function=lambda route: route.path.strip("/"),
        redirect_slashes=False,
    )
    app.state.under_way, app.state.metrics = under_way, metrics
    metrics.gauge("transxnet_under_way", "Requests being received or answered.", lambda: len(under_way))
    metrics.gauge("transxnet_waiting", "Images that wait for the network.", lambda: engine.waiting)
    metrics.gauge("transxnet_pending", "Images accepted and not answered.", lambda: engine.pending)
    app.include_router(Routes(engine, settings, under_way, metrics).router())
    page_files = PageFiles(packages=[("transxnet.serve", "static")])
    app.mount("/static", page_files, name="static")
    app.add_route("/", page_files.page)
    return app


class Routes:
    """The paths of the interface.

    Args:
        engine: What answers.
        settings: Settings of the server.
        under_way: The requests under way.
        metrics: Figures of the server.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, under_way: UnderWay, metrics: Metrics) -> None:
        self.engine = engine
        self.settings = settings
        self.under_way = under_way
        self.metrics = metrics
        self.bodies = Bodies(settings, descriptions.PARAMETERS)
        self._described = False

    def router(self) -> APIRouter:
        """The routes."""
        router, errors = APIRouter(), descriptions.errors
        token = self.settings.token
        guards = [Depends(token_check(token))] if token else []
        kept = (401,) if token else ()
        router.get("/healthz", responses=errors(), response_model=descriptions.Status)(self.health)
        router.get("/readyz", responses=errors(503), response_model=descriptions.Status)(self.ready)
        router.get("/model", responses=errors(503, *kept), response_model=descriptions.Model, dependencies=guards)(
            self.model
        )
        figures: Any = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The figures."}}
        router.get("/metrics", responses=figures | errors(*kept), response_class=Response, dependencies=guards)(
            self.figures
        )
        router.post(
            "/predict",
            response_model=Answer,
            responses=descriptions.answer() | errors(408, 413, 415, 422, 503, 504, *kept),
            openapi_extra=descriptions.image_body(self.settings.max_images),
            dependencies=guards,
        )(self.predict)
        return router

    async def health(self) -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    async def ready(self) -> dict[str, str]:
        """Whether images are accepted."""
        self.under_way.check_ready()
        return {"status": "ready"}

    async def model(self) -> JSONResponse:
        """The network, and the limits of requests."""
        if self.engine.opened is None:
            raise StartingError("the network is being opened; try again soon", retry_after=1)
        given = self.settings
        limits = descriptions.Limits(
            bytes=given.max_bytes, pixels=given.max_pixels, images=given.max_images, seconds=given.timeout
        )
        described = self.engine.opened.description.model_dump()
        return JSONResponse(described | {"limits": limits.model_dump()})

    async def figures(self) -> Response:
        """Figures of the server, in Prometheus' text format."""
        if self.engine.opened is not None and not self._described:
            self._described = True
            self.metrics.describe(self.engine.opened.description)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def predict(self, request: Request, options: Annotated[Options, Query()]) -> Response:
        """Predict for an image, or for several in a form."""
        began = time.perf_counter()
        names = [name for name, _ in request.query_params.multi_items()]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise InvalidParameterError(f'"{repeated}" is given more than once')
        wanted = Wanted(
            NetworkRequest(options.top, options.min_score, options.features),
            options.explain,
            options.stage,
            options.label,
        )
        async with self.under_way.accepted(), self.bodies.uploads(request) as uploads:
            predictions = await unless_gone(request, self._predictions(uploads, wanted))
        self.metrics.predicted(len(uploads))
        assert self.engine.opened is not None
        seconds = {"total": round(time.perf_counter() - began, 4)}
        return JSONResponse(
            {"task": self.engine.opened.description.task, "predictions": predictions, "seconds": seconds}
        )

    async def _predictions(self, uploads: list[Upload], wanted: Wanted) -> list[dict[str, Any]]:
        """A prediction or an error for each image; if all have errors, the first is raised."""
        found = await asyncio.gather(
            *(self.engine.answer(one.name, one.content, wanted) for one in uploads), return_exceptions=True
        )
        faults = [one for one in found if isinstance(one, BaseException)]
        unexpected = [one for one in faults if not isinstance(one, RequestFault)]
        if unexpected or len(faults) == len(found):
            raise (unexpected or faults)[0]
        return [
            {"image": upload.name, **one.to_dict()} if isinstance(one, RequestFault) else one
            for upload, one in zip(uploads, found, strict=True)
            if isinstance(one, dict | RequestFault)
        ]


class PageFiles(StaticFiles):
    """The page's files, which browsers check for changes and get whole: errors of ranges would not be in JSON."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        scope["headers"] = [one for one in scope["headers"] if one[0] != b"range"]
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        del response.headers["Accept-Ranges"]
        return response

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return await self.get_response("index.html", request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    """Raise an error of the framework as one of ours; OPTIONS is answered with the methods that a path takes."""
    assert isinstance(error, HTTPException)
    path = printable(request.url.path)[:200]
    if error.status_code == 405:
        methods = {one.strip() for one in (error.headers or {}).get("Allow", "GET").split(",")} | {"OPTIONS"}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        fault: RequestFault = MethodNotAllowedError(f"{path} takes {allowed}, not {printable(request.method)[:20]}")
        fault.headers["Allow"] = allowed
        raise fault
    if error.status_code in (401, 404):  # 401: a file that cannot be read
        raise NotFoundError(f"there is nothing at {path}")
    raise BadRequestError(f"the request cannot be read: {printable(str(error.detail))[:200]}")


async def _invalid_parameter(request: Request, error: Exception) -> Response:
    """Raise the first of the errors in a query, without what was given."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = printable(str(first["loc"][1]))[:100]  # after "query"; the type may follow
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(descriptions.PARAMETERS))
        raise InvalidParameterError(f'there is no parameter "{name}"; there are {known}')
    message = str(first["msg"])
    raise InvalidParameterError(f'"{name}": {message[:1].lower()}{message[1:300]}')
