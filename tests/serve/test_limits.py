"""Limits of a request, and who may send it, without a network or a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from helpers.serving import StubEngine, asked, client_of
from transxnet.serve import bodies

IMAGE: dict[str, Any] = {"content": b"pixels", "headers": {"Content-Type": "image/png"}}
TINY: dict[str, Any] = {"max_megabytes": 0.001, "max_images": 2}


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    found = answer.json()["error"]
    assert found["status"] == answer.status_code and found["message"]
    return answer.status_code, found["code"]


def sent(body: bytes, kind: str, **headers: str) -> dict[str, Any]:
    """Arguments of a request with a body."""
    return {"content": body, "headers": {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}}


FORM = "multipart/form-data; boundary=x"


def part(name: str = "a", file: str | None = "a.png", body: bytes = b"1", more: str = "") -> bytes:
    """A part of a form."""
    filename = "" if file is None else f'; filename="{file}"'
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n{more}\r\n'
    return head.encode() + body + b"\r\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (sent(b"1" * 1001, "image/png"), (413, "body-too-large")),
        (sent(part(body=b"1" * 1001) + b"--x--\r\n", FORM), (413, "body-too-large")),
        (sent(b"{}", "application/json"), (415, "unsupported-type")),
        (sent(b"a=1", "application/x-www-form-urlencoded"), (415, "unsupported-type")),
        (sent(b"1", "image/png", Content_Encoding="gzip"), (415, "unsupported-type")),
        (sent(b"1", "multipart/form-data"), (400, "bad-request")),
        (sent(b"1", f"multipart/form-data; boundary={'y' * 300}"), (400, "bad-request")),
        (sent(b"nothing like a form", FORM), (400, "bad-request")),
        (sent(part()[:-4], FORM), (400, "bad-request")),
        (sent(part() * 3 + b"--x--\r\n", FORM), (422, "invalid-parameter")),
        (sent(part(file=None) + b"--x--\r\n", FORM), (422, "invalid-parameter")),
        (sent(part() + part("top", None) + b"--x--\r\n", FORM), (422, "invalid-parameter")),
        (sent(part(more="A: b\r\n" * 20) + b"--x--\r\n", FORM), (400, "bad-request")),
        (sent(b"--x--\r\n", FORM), (422, "invalid-parameter")),
    ],
)
def test_a_body_that_is_not_accepted(given: dict[str, Any], expected: tuple[int, str]) -> None:
    engine = StubEngine()
    answer = asked("POST", "/predict", engine, settings=TINY, **given)
    assert code(answer) == expected and not engine.asked
    if expected[0] == 415:
        assert "image" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("charset", "expected"), [("UTF-8", 200), ('"utf-8"', 200), ("punycode", 415), ("undefined", 415), ("z" * 99, 415)]
)
def test_a_form_in_another_charset_is_refused(charset: str, expected: int) -> None:
    body = part(file="\u00e4.png") + b"--x--\r\n"
    answer = asked("POST", "/predict", **sent(body, f"{FORM}; charset={charset}"))
    assert answer.status_code == expected, answer.text
    assert expected != 200 or answer.json()["predictions"][0]["image"] == "\u00e4.png"


def test_a_form_of_many_parts_is_refused() -> None:
    body = b"".join(part(f"n{index}", None) for index in range(10_000)) + b"--x--\r\n"
    assert code(asked("POST", "/predict", **sent(body, FORM))) == (400, "bad-request")


def test_a_body_without_length_is_refused_while_it_arrives() -> None:
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 10**6:
            given += 100
            yield b"1" * 100

    async def ask() -> httpx.Response:
        async with client_of(max_megabytes=0.001) as client:
            return await client.post("/predict", content=chunks(), headers={"Content-Type": "image/png"})

    answer = asyncio.run(ask())
    assert code(answer) == (413, "body-too-large") and given < 2000
    assert answer.headers["connection"] == "close"


def test_a_body_that_begins_quickly_has_no_longer_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MIN_RATE", 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"1" * 500_000
        await asyncio.sleep(60)

    async def ask() -> httpx.Response:
        async with client_of(receive_timeout=0.05) as client:
            return await client.post("/predict", content=chunks(), headers={"Content-Type": "image/png"})

    assert code(asyncio.run(ask())) == (408, "slow-request")


def test_large_files_of_a_form_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def no_file(*_: object, **__: object) -> None:
        raise AssertionError("a file of a form went to the disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    engine = StubEngine()
    assert asked("POST", "/predict", engine, files={"a": ("a.png", b"1" * 3_000_000)}).status_code == 200
    assert len(engine.asked[0][1]) == 3_000_000


def test_bodies_are_refused_beyond_what_may_be_held_at_once_and_requests_beyond_their_number() -> None:
    engine = StubEngine()
    engine.released.clear()

    async def ask(settings: dict[str, Any], count: int) -> list[tuple[int, str]]:
        async with client_of(engine, **settings) as client:
            requests = [
                asyncio.create_task(client.post("/predict", **sent(b"1" * 900, "image/png"))) for _ in range(count)
            ]
            refused, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            engine.released.set()
            answers = await asyncio.gather(*requests)
        engine.released.clear()
        assert all(answer.status_code == 200 for answer in answers if answer.status_code != 503)
        return [code(one.result()) for one in refused]

    assert set(asyncio.run(ask({"max_megabytes": 0.001, "max_queue": 64}, 18))) == {(503, "overloaded")}
    assert set(asyncio.run(ask({"max_queue": 2}, 5))) == {(503, "overloaded")}


@pytest.mark.parametrize("path", ["/predict", "/model", "/metrics"])
def test_a_token_is_asked_for(path: str) -> None:
    method, given = ("POST", IMAGE) if path == "/predict" else ("GET", {"headers": {}})
    for header in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer"},
    ):
        headers: Any = {**given["headers"], **header}
        answer = asked(method, path, settings={"token": "s3cret"}, **(given | {"headers": headers}))
        assert code(answer) == (401, "unauthorised") and answer.headers["www-authenticate"] == "Bearer"
    headers = {**given["headers"], "Authorization": "bearer s3cret"}
    assert asked(method, path, settings={"token": "s3cret"}, **(given | {"headers": headers})).status_code == 200


def test_other_paths_need_no_token() -> None:
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/static/index.html"):
        assert asked("GET", path, settings={"token": "s3cret"}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "host", "allowed"),
    [
        ({}, "localhost:1234", True),
        ({}, "127.0.0.1", True),
        ({}, "[::1]:8000", True),
        ({}, "evil.example", False),
        ({}, "localhost.evil.example:8000", False),
        ({}, "10.0.0.1", True),
        ({}, "10.0.0.1.evil.example", False),
        ({}, "[", False),
        ({"allowed_hosts": ("Vision.example",)}, "vision.example:443", True),
        ({"allowed_hosts": ("*.example",)}, "vision.example", True),
        ({"allowed_hosts": ("*.example",)}, "visionexample", False),
        ({"allowed_hosts": ("*",)}, "anything.example", True),
        ({"host": "0.0.0.0"}, "anything.example", True),
        ({"host": "0.0.0.0", "allowed_hosts": ("vision.example",)}, "anything.example", False),
        ({"host": "0.0.0.0", "allowed_hosts": ("vision.example",)}, "localhost", True),
        ({"host": "0.0.0.0", "allowed_hosts": ("vision.example",)}, "10.0.0.1:8000", True),
        ({"host": "::1"}, "[::1]", True),
    ],
)
def test_the_name_that_the_server_is_called_by(settings: dict[str, Any], host: str, allowed: bool) -> None:
    answer = asked("GET", "/model", settings=settings, headers={"Host": host})
    assert answer.status_code == 200 if allowed else code(answer) == (400, "bad-request")
    assert asked("GET", "/healthz", settings=settings, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "headers", "allowed"),
    [
        ({}, {}, True),
        ({}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"}, True),
        ({}, {"Sec-Fetch-Site": "none"}, True),
        ({}, {"Sec-Fetch-Site": "cross-site"}, False),
        ({}, {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, False),
        ({}, {"Origin": "http://127.0.0.1:8000"}, True),
        ({}, {"Origin": "http://localhost:8000"}, False),
        ({}, {"Origin": "http://evil.example"}, False),
        ({}, {"Origin": "http://10.0.0.1:8000"}, False),
        ({}, {"Origin": "null"}, False),
        ({}, {"Origin": "http://[:"}, False),
        ({"allowed_hosts": ("vision.example",)}, {"Origin": "https://vision.example"}, True),
        ({"cors": ("https://app.example/",)}, {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}, True),
        ({"cors": ("HTTPS://App.Example:443",)}, {"Origin": "https://app.example"}, True),
        ({"cors": ("http://[::1]:80",)}, {"Origin": "http://[::1]"}, True),
        ({"cors": ("https://app.example:80",)}, {"Origin": "https://app.example"}, False),
        ({"cors": ("https://app.example",)}, {"Origin": "https://other.example"}, False),
        ({"cors": ("*",)}, {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}, True),
    ],
)
def test_pages_of_other_origins(settings: dict[str, Any], headers: dict[str, str], allowed: bool) -> None:
    answer = asked("POST", "/predict", settings=settings, content=b"1", headers=headers | {"Content-Type": "image/png"})
    assert answer.status_code == 200 if allowed else code(answer) == (403, "cross-origin")
    shared = "access-control-allow-origin" in answer.headers
    assert shared == (allowed and "cors" in settings)


def test_a_link_of_another_page_leads_to_the_page() -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert asked("GET", "/", headers=visit).status_code == 200


def test_a_preflight_is_answered_if_other_origins_are_allowed() -> None:
    asks = {
        "Origin": "https://app.example",
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    settings = {"cors": ("https://app.example",), "token": "t"}
    answer = asked("OPTIONS", "/predict", settings=settings, headers=asks)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert "cross-origin-resource-policy" not in answer.headers
    other = asked("OPTIONS", "/predict", settings=settings, headers=asks | {"Origin": "https://other.example"})
    assert code(other) == (403, "cross-origin") and "access-control-allow-origin" not in other.headers
    refused = asked("POST", "/predict", settings=settings, headers={"Origin": "https://app.example"})
    assert code(refused) == (401, "unauthorised") and "access-control-allow-origin" in refused.headers
    assert asked("OPTIONS", "/predict", headers=asks).status_code == 403
