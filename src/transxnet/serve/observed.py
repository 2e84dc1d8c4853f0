"""The outermost layer: headers on every answer, figures, and a line of the log for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transxnet.serve.metrics import Metrics
from transxnet.serve.settings import ServerSettings
from transxnet.serve.under_way import UnderWay
from transxnet.text import printable

CLIENT_GONE = 499
"""Status, in figures and logs, of a request whose client has gone."""

ROUTES = ("/", "/predict", "/model", "/healthz", "/readyz", "/metrics", "/openapi.json")

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"}
_LOG = logging.getLogger("transxnet.serve.access")


class Observed:
    """Middleware that adds headers, measures and logs. HEAD is answered as GET, without the body.

    Args:
        app: The application.
        settings: Settings of the server.
        metrics: Receives the figures.
        under_way: Whether the server is stopping.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, under_way: UnderWay) -> None:
        self.app = app
        self._log = settings.access_log
        self._metrics = metrics
        self._under_way = under_way
        self._headers = _SECURITY | ({} if settings.cors else _ISOLATION)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope)
        received = "transfer-encoding" not in given and given.get("content-length", "0").strip("0") == ""
        status = CLIENT_GONE

        async def receiving() -> Message:
            nonlocal received
            message = await receive()
            received = received or (message["type"] == "http.request" and not message.get("more_body", False))
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, scope["http_version"].startswith("1") and not received)
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receiving, sending)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.answered(_route(scope), status, seconds)
            if self._log != "off":
                _LOG.info(_line(scope, status, seconds, self._log))

    def _add_headers(self, message: Message, unread: bool) -> None:
        headers = MutableHeaders(raw=list(message.get("headers", ())))
        for name, value in self._headers.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        if unread or self._under_way.stopping:
            headers["Connection"] = "close"
        message["headers"] = headers.raw


def log_to_standard_error() -> None:
    """Write the log to standard error, if the program has not decided otherwise."""
    for name, form in (("transxnet.serve", "%(name)s: %(message)s"), ("transxnet.serve.access", "%(message)s")):
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter(form))
            logger.addHandler(handler)
            logger.propagate = False
    logging.getLogger("transxnet.serve.access").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that cannot be read


def _route(scope: Scope) -> str:
    """A request's route as one of few, however many paths are tried."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path if path in ROUTES else "/static" if path.startswith("/static/") else "other"


def _line(scope: Scope, status: int, seconds: float, form: str) -> str:
    """A line of the log, without anything from the request that could break it, and without the query."""
    values = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": (scope.get("client") or ("-",))[0],
        "method": printable(scope["method"])[:20],
        "path": quote(scope["path"][:200], errors="replace"),
        "status": status,
        "seconds": round(seconds, 4),
    }
    return json.dumps(values) if form == "json" else " ".join(map(str, values.values()))
