"""Reasons that a request is refused or fails, each with its status and code."""

from __future__ import annotations

from typing import Any

from transxnet.errors import TransXNetError


class RequestFault(TransXNetError):  # noqa: N818 (a reason, not always an error of ours)
    """A request that is not answered.

    Args:
        message: What was wrong, and what to do.
        retry_after: Seconds after which another try may succeed, if any.

    Attributes:
        headers: Headers of the answer that belong to the error.
    """

    status = 400
    code = "bad-request"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.headers: dict[str, str] = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def __reduce__(self) -> tuple[type[RequestFault], tuple[str, int | None]]:
        return type(self), (self.message, self.retry_after)  # workers send it

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON: the body of the answer, and part of the answer for one of several images."""
        return {"error": {"status": self.status, "code": self.code, "message": self.message}}


class BadRequestError(RequestFault):
    status, code = 400, "bad-request"


class UnauthorisedError(RequestFault):
    status, code = 401, "unauthorised"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after)
        self.headers["WWW-Authenticate"] = "Bearer"


class CrossOriginError(RequestFault):
    status, code = 403, "cross-origin"


class NotFoundError(RequestFault):
    status, code = 404, "not-found"


class MethodNotAllowedError(RequestFault):
    status, code = 405, "method-not-allowed"


class SlowRequestError(RequestFault):
    status, code = 408, "slow-request"


class BodyTooLargeError(RequestFault):
    status, code = 413, "body-too-large"


class UnsupportedTypeError(RequestFault):
    status, code = 415, "unsupported-type"


class UnreadableImageError(RequestFault):
    status, code = 422, "unreadable-image"


class TooManyPixelsError(RequestFault):
    status, code = 422, "too-many-pixels"


class InvalidParameterError(RequestFault):
    status, code = 422, "invalid-parameter"


class UnsupportedOptionError(RequestFault):
    status, code = 422, "unsupported-option"


class HeadersTooLargeError(RequestFault):
    status, code = 431, "headers-too-large"


class FailedError(RequestFault):
    status, code = 500, "failed"


class WorkerLostError(RequestFault):
    status, code = 500, "worker-lost"


class OverloadedError(RequestFault):
    status, code = 503, "overloaded"


class StoppingError(RequestFault):
    status, code = 503, "stopping"


class StartingError(RequestFault):
    status, code = 503, "starting"


class TooSlowError(RequestFault):
    status, code = 504, "too-slow"
