"""The OpenAPI document, and requests made from it: each gets an answer that it describes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks

from helpers.serving import StubEngine, asked, picture
from transxnet.serve.app import create_app
from transxnet.serve.descriptions import PARAMETERS
from transxnet.serve.faults import UnreadableImageError
from transxnet.serve.settings import ServerSettings

load_all_checks()


def fault(content: bytes) -> Exception | None:
    """Only this one is an image."""
    return None if content == picture() else UnreadableImageError("the image cannot be used")


def app(**given: Any) -> Any:
    """The application, around an engine that answers at once."""
    return create_app(StubEngine(fault).engine, ServerSettings(**given))


schema = schemathesis.openapi.from_asgi("/openapi.json", app(max_megabytes=0.1, allowed_hosts=("*",)))
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


def check(case: Any) -> None:
    """Send a request, and check what comes back."""
    answer = case.call()
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        assert sorted(answer.json()["error"]) == ["code", "message", "status"]


@schema.parametrize()
@settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_requests_made_from_the_document_get_what_it_describes(case: Any) -> None:
    check(case)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_many_requests_made_from_the_document_get_what_it_describes(case: Any) -> None:
    check(case)


def test_the_document_describes_every_parameter_body_and_error() -> None:
    document = asked("GET", "/openapi.json", settings={"token": "t", "max_images": 3}).json()
    assert sorted(document["paths"]) == ["/healthz", "/metrics", "/model", "/predict", "/readyz"]
    predict = document["paths"]["/predict"]["post"]
    assert {one["name"] for one in predict["parameters"]} == PARAMETERS
    assert all(one["description"] for one in predict["parameters"])
    bounds = {
        one["name"]: (one["schema"].get("minimum"), one["schema"].get("maximum")) for one in predict["parameters"]
    }
    assert (bounds["top"], bounds["min_score"]) == ((1, 1_000_000), (0, 1))
    assert {"multipart/form-data", "image/*", "application/octet-stream"} <= set(predict["requestBody"]["content"])
    statuses = {"200", "400", "401", "403", "405", "408", "413", "415", "422", "431", "500", "503", "504"}
    assert set(predict["responses"]) == statuses
    for status, described in predict["responses"].items():
        example = described["content"]["application/json"]["example"]
        assert status == "200" or str(example["error"]["status"]) == status
    for path in ("/model", "/metrics", "/predict"):
        (operation,) = document["paths"][path].values()
        assert operation["security"] == [{"HTTPBearer": []}]
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert sorted(names) == ["healthz", "metrics", "model", "predict", "readyz"]
    assert "ValidationError" not in json.dumps(document)
    assert "security" not in document["paths"]["/healthz"]["get"]
