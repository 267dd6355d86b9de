"""Errors in OpenAI's form, and what a gRPC status means in HTTP."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fleet import logs
from fleet.errors import ErrorDetails, UnavailableError, details_of
from starlette.exceptions import HTTPException

_LOG = logs.get("gateway")
FILTERED = "CONTENT_FILTERED"

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error", "invalid_value"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "invalid_request_error", "conflict"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error", "denied"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "overloaded"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error", "unavailable"),
    grpc.StatusCode.CANCELLED: (503, "server_error", "unavailable"),  # by a server that stops
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error", "timeout"),
}
# The router's field names where HTTP's differ.
_PARAMS = {"chat.messages": "messages"}


class ApiError(Exception):
    """An answer other than 2xx.

    Attributes:
        status: HTTP status.
        body: The ``error`` object.
        headers: Such as ``Retry-After``.
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
        self.body = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return it as HTTP."""
        return JSONResponse({"error": self.body}, self.status, self.headers)


def from_rpc(err: grpc.RpcError) -> ApiError:
    """Translate what the router or its sidecar said."""
    found = details_of(err)
    status, kind, code = _HTTP.get(found.code, (500, "server_error", "internal_error"))
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(found.retry_after_s or 1)))
    return ApiError(
        status, found.message, kind=kind, code=code, param=_param(found), headers=headers
    )


def _param(found: ErrorDetails) -> str | None:
    if found.field is None:
        return None
    field = found.field.removeprefix("request.")
    name = _PARAMS.get(field, field.removeprefix("chat."))
    return name.removeprefix("sampling.")


def from_validation(problems: Sequence[Any]) -> ApiError:
    """Name the first field that does not fit the schema."""
    first = problems[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field: {param}", code="unknown_parameter", param=param)
    return ApiError(400, f"{param or 'body'}: {first['msg']}", code="invalid_value", param=param)


async def on_api_error(_request: Request, err: Exception) -> JSONResponse:
    """Answer any foreseen error in OpenAI's form."""
    if isinstance(err, ApiError):
        return err.response()
    if isinstance(err, RequestValidationError):
        return from_validation(err.errors()).response()
    if isinstance(err, UnavailableError):
        unavailable = ApiError(
            503, str(err), kind="server_error", code="unavailable", headers={"Retry-After": "1"}
        )
        return unavailable.response()
    if isinstance(err, grpc.RpcError):
        return from_rpc(err).response()
    if isinstance(err, HTTPException):
        return ApiError(err.status_code, str(err.detail), code="http_error").response()
    _LOG.error("request failed", exc_info=err)
    return ApiError(500, "internal error", kind="server_error", code="internal_error").response()


FORESEEN: tuple[type[Exception], ...] = (
    ApiError,
    RequestValidationError,
    UnavailableError,
    grpc.RpcError,
    HTTPException,
)
