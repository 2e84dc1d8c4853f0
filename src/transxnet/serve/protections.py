"""Who may call, from which pages and by which names; and one form for every error."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transxnet.serve.faults import (
    BadRequestError,
    CrossOriginError,
    FailedError,
    HeadersTooLargeError,
    RequestFault,
    UnauthorisedError,
)
from transxnet.serve.settings import ServerSettings
from transxnet.text import printable

MAX_HEAD = 65536
"""Bytes of a request's target and headers. h11 has the same limit, but only for those that arrive in pieces."""

_LOG = logging.getLogger("transxnet.serve")
_BEARER = HTTPBearer(auto_error=False)
_OTHER_ORIGIN = "the request comes from a page of another origin; the server's user can allow it with --cors"
_PROBES = ("/healthz", "/readyz")


def allowed_origins(settings: ServerSettings) -> frozenset[str]:
    """Origins of ``cors`` as browsers write them: in lower case, without the port of the scheme and a last slash."""
    return frozenset(
        re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", one.rstrip("/").lower()) for one in settings.cors
    )


class Protected:
    """Middleware that checks where a request comes from, and answers whatever is raised inside in one form.

    Browsers send requests for any page that their user visits. A page of another origin is refused, unless it is in
    ``cors``, and so is a name that was made to point to this machine (DNS rebinding).

    Args:
        app: The application.
        settings: Settings of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._hosts = frozenset(_host_name(one) for one in (settings.host, *settings.allowed_hosts))
        self._domains = tuple(one[1:].lower() for one in settings.allowed_hosts if one.startswith("*."))
        self._any_host = "*" in settings.allowed_hosts or (
            not _is_loopback(_host_name(settings.host)) and not settings.allowed_hosts
        )
        self._origins = allowed_origins(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, RequestFault):
                _LOG.error("a request failed", exc_info=error)
                error = FailedError("the request failed; the server's log has the reason")
            if started:
                raise
            await _answer(error)(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size + sum(len(name) + len(value) + 4 for name, value in headers.raw) > MAX_HEAD:
            raise _closing(
                HeadersTooLargeError("the request's headers are larger than 64 KB; send fewer or shorter ones")
            )
        if "transfer-encoding" in headers and "content-length" in headers:
            raise _closing(BadRequestError("the request has both Content-Length and Transfer-Encoding"))
        if not scope["path"].startswith("/"):
            raise _closing(BadRequestError("the request's target is not a path, such as /predict"))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        host = headers.get("host", "")
        name = _host_name(host)
        if not (self._any_host or path in _PROBES or not host or _is_address(name) or self._is_ours(name)):
            raise BadRequestError(
                f'the server is not called "{printable(host)[:100]}"; its user can allow that name with --allowed-hosts'
            )
        self._check_origin(scope["method"], headers, host)

    def _check_origin(self, method: str, headers: Headers, host: str) -> None:
        site, origin = headers.get("sec-fetch-site", ""), headers.get("origin", "").lower()
        if site in ("same-origin", "none") or "*" in self._origins or (origin and origin in self._origins):
            return
        visited = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        name = _host_name(origin)
        ours = _same_server(origin, host) or (self._is_ours(name) and not _is_loopback(name))
        if (site == "cross-site" and not visited) or (origin and not ours):
            raise CrossOriginError(_OTHER_ORIGIN)

    def _is_ours(self, name: str) -> bool:
        return name in self._hosts or _is_loopback(name) or name.endswith(self._domains)


class Shared(CORSMiddleware):
    """Middleware that lets pages of some origins read answers; what it refuses is an error like all others."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        return response if response.status_code == 200 else _answer(CrossOriginError(_OTHER_ORIGIN))


def token_check(token: str) -> Callable[..., Awaitable[None]]:
    """A dependency of routes that raises UnauthorisedError without the token."""
    expected = token.encode()

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), expected):
            raise UnauthorisedError("a token is needed: send it as the header `Authorization: Bearer TOKEN`")

    return check


def _answer(fault: RequestFault) -> Response:
    return JSONResponse(fault.to_dict(), fault.status, fault.headers)


def _closing(fault: RequestFault) -> RequestFault:
    """An error after which nothing further is read from the connection, whose meaning may be in doubt."""
    fault.headers["Connection"] = "close"
    return fault


def _host_name(given: str) -> str:
    """The name in a Host header, an origin or a setting: without scheme, port and brackets; empty if there is none."""
    if given.count(":") > 1 and "[" not in given and "//" not in given:
        given = f"[{given}]"  # a bare IPv6 address
    try:
        return urlsplit(given if "//" in given else f"//{given}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Whether a name is an address, which cannot be made to point elsewhere as names can."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same_server(origin: str, host: str) -> bool:
    """Whether an origin is the host that is called; the schemes may differ behind a proxy that ends TLS."""
    try:
        ours, theirs = urlsplit(f"//{host.lower()}"), urlsplit(origin)
        default = {"http": 80, "https": 443}.get(theirs.scheme)
        same_port = (ours.port or default) == (theirs.port or default)
    except ValueError:
        return False
    return default is not None and ours.hostname == theirs.hostname and same_port
