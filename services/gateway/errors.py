"""API errors in OpenAI's format, and the mapping of gRPC statuses to HTTP."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from bem_fleet.services.gateway.withheld import Withheld, withheld_of
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fleet import logs, wire
from fleet.errors import (
    STATUS,
    DeniedError,
    ErrorDetails,
    FleetError,
    InvalidArgumentError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
    details_of,
    status_of,
)
from starlette.exceptions import HTTPException

_LOG = logs.get("gateway")
UNSUPPORTED_FIELD = "unsupported_field"
"""Type of the validation error for a field that is known but not served."""

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error", "invalid_value"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "invalid_request_error", "conflict"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error", "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error", "denied"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "overloaded"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "server_error", "unimplemented"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error", "unavailable"),
    grpc.StatusCode.CANCELLED: (503, "server_error", "unavailable"),  # the server is stopping
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error", "timeout"),
}
# Messages of the router's request whose fields are members of the body in HTTP.
_PREFIXES = ("request.", "chat.", "sampling.")
_EXPECTED = "Input should be "
_INDEX = re.compile(r"\[(\d+)\]")
# Clients of OpenAI and Stripe read it: a retry meets the same limit again.
_SHOULD_RETRY = "X-Should-Retry"


class ApiError(Exception):
    """Error response.

    Attributes:
        status: HTTP status.
        body: ``error`` object of the response.
        headers: Additional response headers, for example ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    def rename(self, param: str, name: str) -> None:
        """Use another name for a field, in the error's param and at the start of its message."""
        if self.body["param"] == param:
            self.body["param"] = name
            message = str(self.body["message"])
            if message.startswith(f"{param}: "):
                self.body["message"] = f"{name}{message.removeprefix(param)}"

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse({"error": self.body}, self.status, self.headers)


def from_rpc(err: grpc.RpcError) -> ApiError:
    """Return the HTTP error for an error of a mission or its sidecar."""
    details = details_of(err)
    status, kind, code = _HTTP.get(details.code, (500, "server_error", "internal_error"))
    if details.reason == wire.CONTEXT_LENGTH_EXCEEDED:
        code = "context_length_exceeded"
    headers = _headers(status, details.retry_after_s)
    param = _param(details)
    message = details.message
    if param and message.startswith(prefix := f"{details.field}: "):
        message = f"{param}: {message.removeprefix(prefix)}"
    error = ApiError(status, message, kind=kind, code=code, param=param, headers=headers)
    if details.reason == wire.CONTENT_FILTERED:
        withheld = withheld_of(details)
        error.headers[wire.CONTENT_FILTER] = withheld.header()
        error.body["code"] = "content_filter"
        error.body["innererror"] = _inner_error(withheld)
    return error


def _inner_error(withheld: Withheld) -> dict[str, Any]:
    """Return Azure's details of a filtered request or response."""
    usage = withheld.usage
    return {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": withheld.content_filter_result(),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def from_fleet(err: FleetError) -> ApiError:
    """Return the HTTP error for a refusal by access control or by the feedback queue."""
    status, kind, code = _HTTP[status_of(err, STATUS)]
    if isinstance(err, RateLimitedError):
        code = "rate_limit_exceeded"
    elif isinstance(err, DeniedError):
        code = err.reason.lower()
    headers = _headers(status, getattr(err, "retry_after_s", None))
    param = err.field if isinstance(err, InvalidArgumentError) else None
    return ApiError(status, str(err), kind=kind, code=code, param=param, headers=headers)


def _headers(status: int, retry_after_s: float | None) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 429 and retry_after_s is None:
        return {_SHOULD_RETRY: "false"}
    if status in (429, 503):
        return {"Retry-After": str(max(1, math.ceil(retry_after_s or 1)))}
    return {}


def _param(details: ErrorDetails) -> str | None:
    """Return the path of the field in the body of an OpenAI route, such as messages.1.content."""
    if details.field is None:
        return None
    field = _INDEX.sub(r".\1", details.field)
    for prefix in _PREFIXES:
        field = field.removeprefix(prefix)
    return field


def from_validation(problems: Sequence[Any], body: Any = None) -> ApiError:
    """Return the HTTP error for the first field that violates the schema.

    Args:
        problems: Errors of pydantic.
        body: Value that was validated; None if it is unknown.
    """
    first, path, messages = problems[0], _path(problems[0], body), [_message(problems[0])]
    # A field that takes a text or a list has a problem as either. What is wrong inside of the list
    # says more than that it is not a text.
    for problem in problems[1:]:
        inner = _path(problem, body)
        if inner == path:
            messages.append(_message(problem))
        elif inner[: len(path)] == path:
            first, path, messages = problem, inner, [_message(problem)]
    param = ".".join(map(str, path)) or None
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(
            400,
            f"{param}: unknown field; remove it or set it to null",
            code="unknown_parameter",
            param=param,
        )
    code = "unsupported_parameter" if first["type"] == UNSUPPORTED_FIELD else "invalid_value"
    if all(message.startswith(_EXPECTED) for message in messages):
        alternatives = (message.removeprefix(_EXPECTED) for message in dict.fromkeys(messages))
        message = _EXPECTED + " or ".join(alternatives)
    else:
        message = messages[0]
    return ApiError(400, f"{param or 'body'}: {message}", code=code, param=param)


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{_EXPECTED}an object"
    return str(problem["msg"]).removeprefix("Value error, ")


def _path(problem: Mapping[str, Any], body: Any) -> list[Any]:
    """Return the path of the field that a problem is about."""
    place = list(problem["loc"])
    if place and place[0] in ("body", "query", "path"):
        del place[0]
    if body is None:
        return place
    return _own_path(place, body, is_missing=problem["type"] == "missing")


def _own_path(place: Sequence[Any], body: Any, *, is_missing: bool) -> list[Any]:
    """Return the part of a path that exists in the body, or whose last field is missing there.

    A schema may read one text as a list; the caller's path ends at the text: ``stop``, not
    ``stop.0``. Names of a union's members are no part of it.
    """
    path: list[Any] = []
    for number, part in enumerate(place, 1):
        if isinstance(body, dict):
            if part not in body and not (is_missing and number == len(place)):
                continue  # the tag of a union
            body = body.get(part)
        elif isinstance(body, list):
            if not isinstance(part, int):  # the tag of a union
                continue
            body = body[part] if part < len(body) else None
        else:
            break
        path.append(part)
    return path


async def error_response(_request: Request, err: Exception) -> JSONResponse:
    """Return the response for any error, in OpenAI's format."""
    if isinstance(err, ApiError):
        return err.response()
    if isinstance(err, RequestValidationError):
        return from_validation(err.errors(), err.body).response()
    if isinstance(err, InvalidArgumentError | OverloadedError | UnavailableError):
        return from_fleet(err).response()
    if isinstance(err, grpc.RpcError):
        return from_rpc(err).response()
    if isinstance(err, HTTPException):
        return ApiError(err.status_code, str(err.detail), code="http_error").response()
    _LOG.error("request failed", exc_info=err)
    return ApiError(500, "internal error", kind="server_error", code="internal_error").response()


HANDLED_ERRORS: tuple[type[Exception], ...] = (
    ApiError,
    RequestValidationError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
    grpc.RpcError,
    HTTPException,
)
"""Errors that ``error_response`` maps to a status of their own; any other one is 500."""
