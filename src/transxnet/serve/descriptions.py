"""The interface as OpenAPI describes it: bodies, answers, errors, with examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from transxnet.serve import faults
from transxnet.serve.answers import TYPES, Fault, ModelDescription

ABOUT = """\
Classifies, detects or segments images. Send an image to `/predict` as the body, or several as files of a form:

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict
    curl -F image=@cat.jpg -F image=@dog.jpg 'http://127.0.0.1:8000/predict?top=3'

Every error has one form, with a message for people and a code for programs."""


class Options(BaseModel):
    """Answer that is wanted, as the query gives it."""

    model_config = ConfigDict(extra="forbid")

    top: Annotated[int, Field(ge=1, le=1_000_000)] | SkipJsonSchema[None] = Field(
        default=None, description="Number of classes of a classifier's answer."
    )
    min_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | SkipJsonSchema[None] = Field(
        default=None, description="Minimum score of a detector's objects."
    )
    explain: Literal["", "gradcam"] = Field(
        default="", description="`gradcam` adds a heat map of where a classifier's stage finds the class."
    )
    stage: Literal["1", "2", "3", "4", "last"] = Field(default="last", description="Stage of the heat map.")
    label: str = Field(
        default="", alias="class", max_length=500, description="Class of the heat map; the most probable by default."
    )
    features: bool = Field(default=False, description="Whether a classifier's pooled features are wanted.")


PARAMETERS = frozenset(field.alias or name for name, field in Options.model_fields.items())
"""Names of the query's parameters."""


class ErrorAnswer(BaseModel):
    """The answer of every request that fails."""

    error: Fault


class Status(BaseModel):
    """The server's state."""

    status: Literal["ok", "ready"]


class Limits(BaseModel):
    """Limits of a request.

    Attributes:
        bytes: Of the body.
        pixels: Of an image.
        images: Of a form.
        seconds: In which a request is answered.
    """

    bytes: int
    pixels: int
    images: int
    seconds: float


class Model(ModelDescription):
    """The network that is served, what it can do, and the limits of requests."""

    limits: Limits


_EXAMPLES: dict[str, tuple[type[faults.RequestFault], str]] = {
    "400": (faults.BadRequestError, "the form cannot be read: Missing boundary in multipart."),
    "401": (faults.UnauthorisedError, "a token is needed: send it as the header `Authorization: Bearer TOKEN`"),
    "403": (faults.CrossOriginError, "the request comes from a page of another origin"),
    "405": (faults.MethodNotAllowedError, "/predict takes POST, not GET"),
    "408": (faults.SlowRequestError, "the body arrived too slowly"),
    "413": (faults.BodyTooLargeError, "the body has more than 20,000,000 bytes; send a smaller image"),
    "415": (faults.UnsupportedTypeError, "bodies of type text/plain are not accepted"),
    "422": (faults.UnreadableImageError, "the image cannot be used: empty file (0 bytes)"),
    "431": (faults.HeadersTooLargeError, "the request's headers are larger than 64 KB"),
    "500": (faults.WorkerLostError, "the process that computes was lost with this request; try once more"),
    "503": (faults.OverloadedError, "64 images are waiting already; try again soon"),
    "504": (faults.TooSlowError, "the image was not computed within 60 seconds"),
}
_HEADERS = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`."}},
    "405": {"Allow": {"schema": {"type": "string"}, "description": "Methods that the path takes."}},
    "503": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before another try."}},
}
_ANSWER = {
    "task": "classification",
    "predictions": [
        {"image": "cat.jpg", "width": 640, "height": 480, "answers": [{"class": "cat", "probability": 0.93}]},
        {"image": "notes.txt", **faults.UnreadableImageError("the image cannot be used: not an image").to_dict()},
    ],
    "seconds": {"total": 0.12},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of the errors with these statuses, and of those that any request can have."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 400, 403, 405, 431, 500}):
        fault, message = _EXAMPLES[str(status)]
        described[status] = {
            "model": ErrorAnswer,
            "description": fault.code.replace("-", " ").capitalize(),
            "content": {"application/json": {"example": fault(message).to_dict()}},
            "headers": _HEADERS.get(str(status), {}),
        }
    return described


def answer() -> dict[int | str, dict[str, Any]]:
    """Description of an answer with predictions."""
    return {200: {"description": "A prediction for each image.", "content": {"application/json": {"example": _ANSWER}}}}


def image_body(images: int) -> dict[str, Any]:
    """Description of a body with an image, or with a form of at most so many."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    one = {"type": "string", "format": "binary", "description": "An image file."}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": images}
    form = {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {"image": several},
            "description": f"From 1 to {images} files, in fields of any name.",
        },
        "encoding": {"image": {"contentType": ", ".join(TYPES)}},
    }
    kinds = ("application/octet-stream", "image/jpeg", "image/png", "image/*")
    return {
        "requestBody": {
            "required": True,
            "description": "An image file, or a form with several.",
            "content": {**dict.fromkeys(kinds, binary), "multipart/form-data": form},
        }
    }
