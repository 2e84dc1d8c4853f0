"""The HTTP interface, with an engine that needs no network."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from helpers.serving import DESCRIPTION, StubEngine, asked, client_of
from transxnet.serve.faults import FailedError, StartingError, UnreadableImageError

IMAGE: dict[str, Any] = {"content": b"pixels", "headers": {"Content-Type": "image/png"}}


def error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    found = answer.json()
    assert sorted(found) == ["error"] and sorted(found["error"]) == ["code", "message", "status"]
    assert found["error"]["status"] == answer.status_code
    assert answer.headers["cache-control"] == "no-store"
    details: dict[str, Any] = found["error"]
    return details


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", None])
def test_an_image_as_body_is_answered(kind: str | None) -> None:
    engine = StubEngine()
    query = {"top": 3, "min_score": 0.25, "explain": "gradcam", "stage": 2, "class": "dog", "features": "true"}
    headers = {"Content-Type": kind} if kind else {}
    answer = asked("POST", "/predict", engine, params=query, content=b"pixels", headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["task"] == "classification" and found["seconds"]["total"] >= 0
    assert [one["image"] for one in found["predictions"]] == ["image 0"]
    ((name, content, wanted),) = engine.asked
    assert (name, content) == ("image 0", b"pixels")
    assert (wanted.request.top, wanted.request.min_score, wanted.request.features) == (3, 0.25, True)
    assert (wanted.explain, str(wanted.stage), wanted.label) == ("gradcam", "2", "dog")


def test_the_files_of_a_form_are_answered_in_order_with_the_error_of_a_bad_one() -> None:
    engine = StubEngine(lambda content: UnreadableImageError("no image") if content == b"bad" else None)
    files = [("a", ("a.png", b"1")), ("any", ("../\x1b[31mb\n.png", b"bad")), ("a", ("", b"3"))]
    answer = asked("POST", "/predict", engine, files=files, data={"comment": "ignored"})
    assert answer.status_code == 200, answer.text
    first, second, *rest = answer.json()["predictions"]
    assert first["image"] == "a.png" and first["answers"]
    assert second["image"].isprintable() and second["error"]["code"] == "unreadable-image"
    assert [content for _, content, _ in engine.asked][:2] == [b"1", b"bad"]
    assert all(name.isprintable() for name, _, _ in engine.asked)
    assert len(rest) == len(engine.asked) - 2


def test_if_all_images_are_bad_the_answer_is_the_first_error() -> None:
    engine = StubEngine(lambda content: UnreadableImageError(f"no image: {content.decode()}"))
    answer = asked("POST", "/predict", engine, files=[("a", ("a", b"1")), ("a", ("b", b"2"))])
    assert answer.status_code == 422 and error(answer)["message"] == "no image: 1"


def test_an_unexpected_exception_is_an_error_whose_traceback_is_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "transxnet.serve"):
        answer = asked("POST", "/predict", StubEngine(lambda content: ZeroDivisionError("secret")), **IMAGE)
    assert answer.status_code == 500 and error(answer)["code"] == "failed" and "secret" not in answer.text
    assert "ZeroDivisionError: secret" in caplog.text
    assert asked("POST", "/predict", StubEngine(lambda content: FailedError("x")), **IMAGE).status_code == 500


def test_the_network_is_described_with_limits_and_types() -> None:
    found = asked("GET", "/model", settings={"max_megabytes": 2, "timeout": 7}).json()
    described = DESCRIPTION.model_dump()
    assert {name: found[name] for name in described} == described
    assert found["limits"] == {"bytes": 2_000_000, "pixels": 50_000_000, "images": 16, "seconds": 7}
    assert {"image/jpeg", "image/png", "image/webp"} < set(found["types"])


def test_while_the_network_is_opened_the_process_lives_but_is_not_ready() -> None:
    engine = StubEngine(opened=None, not_ready=StartingError("the network is being opened", retry_after=1))
    assert asked("GET", "/healthz", engine).json() == {"status": "ok"}
    for method, path in (("GET", "/readyz"), ("GET", "/model"), ("POST", "/predict")):
        answer = asked(method, path, engine, **(IMAGE if method == "POST" else {}))
        assert answer.status_code == 503 and error(answer)["code"] == "starting" and answer.headers["retry-after"]
    assert asked("GET", "/metrics", engine).status_code == 200
    assert not engine.asked


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("top=0", "top"),
        ("top=-1", "top"),
        ("top=1e9", "top"),
        ("top=many", "top"),
        ("top[]=1", "top[]"),
        ("top=1&top=2", "top"),
        ("top=" + "9" * 5000, "top"),
        ("min_score=NaN", "min_score"),
        ("min_score=1.5", "min_score"),
        ("explain=everything", "explain"),
        ("stage=5", "stage"),
        ("class=" + "x" * 501, "class"),
        ("features=perhaps", "features"),
        ("label=cat", "label"),
        ("%1b[31m" + "y" * 5000 + "=1", r"\x1b[31myyy"),
    ],
)
def test_an_invalid_parameter_is_named(query: str, name: str) -> None:
    answer = asked("POST", f"/predict?{query}", **IMAGE)
    found = error(answer)
    assert answer.status_code == 422 and found["code"] == "invalid-parameter"
    assert name in found["message"] and "http" not in found["message"] and len(found["message"]) < 500


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/static/../app.py", 404, None),
        ("GET", "/static/%2e%2e/app.py", 404, None),
        ("GET", "/static/..%2f..%2fapp.py", 404, None),
        ("GET", "/static/%00", 404, None),
        ("GET", "/static/" + "x" * 5000, 404, None),
        ("GET", "/docs", 404, None),
        ("GET", "/predict", 405, "OPTIONS, POST"),
        ("HEAD", "/predict", 405, "OPTIONS, POST"),
        ("DELETE", "/model", 405, "GET, HEAD, OPTIONS"),
        ("POST", "/static/index.html", 405, "GET, HEAD, OPTIONS"),
        ("BREW", "/healthz", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/predict", 204, "OPTIONS, POST"),
        ("OPTIONS", "/model", 204, "GET, HEAD, OPTIONS"),
        ("HEAD", "/healthz", 200, None),
        ("HEAD", "/", 200, None),
    ],
)
def test_other_paths_and_methods(method: str, path: str, status: int, allowed: str | None) -> None:
    answer = asked(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allowed)
    if method in ("HEAD", "OPTIONS"):
        assert answer.content == b""
    else:
        assert error(answer)["code"] == {404: "not-found", 405: "method-not-allowed"}[status]


def test_every_answer_has_the_security_headers() -> None:
    for path in ("/", "/healthz", "/nothing", "/static/index.html"):
        headers = asked("GET", path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["permissions-policy"].startswith("camera=(self)")
        assert headers["cache-control"] == ("no-cache" if path in ("/", "/static/index.html") else "no-store")
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/static/app.js"])
def test_the_files_of_the_page_are_whole_and_sent_again_only_if_they_have_changed(path: str) -> None:
    whole = asked("GET", path)
    assert whole.status_code == 200 and whole.content
    for wanted in ("bytes=0-3", "bytes=99999999-", "lines=1"):
        answer = asked("GET", path, headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (200, whole.content), wanted
    answer = asked("GET", path, headers={"If-None-Match": whole.headers["etag"]})
    assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (304, b"", "no-cache")


def test_figures_count_requests_images_and_what_the_engine_observes() -> None:
    engine = StubEngine()

    async def figures() -> str:
        async with client_of(engine) as client:
            await client.post("/predict", **IMAGE)
            await client.get("/no/such/path")
            for name, value in (("batch_size", 4), ("decode_seconds", 0.1), ("restarts", 1), ("unknown", 1)):
                vars(engine)["observe"](name, value)
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            return answer.text

    found = asyncio.run(figures()).splitlines()
    for line in (
        'transxnet_requests_total{route="/predict",status="200"} 1.0',
        'transxnet_requests_total{route="other",status="404"} 1.0',
        "transxnet_images_total 1.0",
        "transxnet_restarts_total 1.0",
        "transxnet_batch_size_sum 4.0",
        "transxnet_decode_seconds_count 1.0",
        "transxnet_pending 0.0",
        "transxnet_under_way 0.0",
    ):
        assert line in found
    assert any(line.startswith("transxnet_model_info{") and 'name="transxnet_nano"' in line for line in found)


@pytest.mark.parametrize("form", ["off", "text", "json"])
def test_the_access_log_is_one_safe_line(form: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "transxnet.serve.access"):
        asked("GET", "/a%20200%0a%1b[31m?token=secret", settings={"access_log": form})
    if form == "off":
        assert not caplog.records
        return
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable() and "secret" not in line
    if form == "json":
        assert json.loads(line)["status"] == 404
    else:
        assert line.split()[2:5] == ["GET", "/a%20200%0A%1B%5B31m", "404"]


def test_the_interface_can_be_mounted_in_another_application() -> None:
    from fastapi import FastAPI

    from transxnet.serve.app import create_app
    from transxnet.serve.settings import ServerSettings

    outer = FastAPI()
    outer.mount("/vision", create_app(StubEngine().engine, ServerSettings(token="t")))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://localhost") as client:
            token = {"Authorization": "Bearer t", "Content-Type": "image/png"}
            return [
                (await client.get("/vision/healthz")).status_code,
                (await client.get("/vision/model")).status_code,
                (await client.post("/vision/predict", content=b"x", headers=token)).status_code,
                (await client.get("/vision/static/index.html")).status_code,
            ]

    assert asyncio.run(statuses()) == [200, 401, 200, 200]
