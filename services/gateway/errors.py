"""API errors in OpenAI's format, and the mapping of gRPC statuses to HTTP."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fleet import logs
from fleet.errors import (
    STATUS,
    DeniedError,
    ErrorDetails,
    FleetError,
    RateLimitedError,
    UnavailableError,
    details_of,
    status_of,
)
from starlette.exceptions import HTTPException

_LOG = logs.get("gateway")

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error", "invalid_value"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "invalid_request_error", "conflict"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error", "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error", "denied"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "overloaded"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error", "unavailable"),
    grpc.StatusCode.CANCELLED: (503, "server_error", "unavailable"),  # the server is stopping
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error", "timeout"),
}
# Names of the router's fields that differ in HTTP.
_PARAMS = {"chat.messages": "messages"}


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
        self.body = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse({"error": self.body}, self.status, self.headers)


def from_rpc(err: grpc.RpcError) -> ApiError:
    """Return the HTTP error for an error of a mission or its sidecar."""
    details = details_of(err)
    status, kind, code = _HTTP.get(details.code, (500, "server_error", "internal_error"))
    headers = _headers(status, details.retry_after_s)
    return ApiError(
        status, details.message, kind=kind, code=code, param=_param(details), headers=headers
    )


def from_fleet(err: FleetError) -> ApiError:
    """Return the HTTP error for a refusal by access control."""
    status, kind, code = _HTTP[status_of(err, STATUS)]
    if isinstance(err, RateLimitedError):
        code = "rate_limit_exceeded"
    elif isinstance(err, DeniedError):
        code = err.reason.lower()
    headers = _headers(status, getattr(err, "retry_after_s", None))
    return ApiError(status, str(err), kind=kind, code=code, headers=headers)


def _headers(status: int, retry_after_s: float | None) -> dict[str, str]:
    if status in (429, 503):
        return {"Retry-After": str(max(1, math.ceil(retry_after_s or 1)))}
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}


def _param(details: ErrorDetails) -> str | None:
    if details.field is None:
        return None
    field = details.field.removeprefix("request.")
    name = _PARAMS.get(field, field.removeprefix("chat."))
    return name.removeprefix("sampling.")


def from_validation(problems: Sequence[Any]) -> ApiError:
    """Return the HTTP error for the first field that violates the schema."""
    first = problems[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field: {param}", code="unknown_parameter", param=param)
    return ApiError(400, f"{param or 'body'}: {first['msg']}", code="invalid_value", param=param)


async def error_response(_request: Request, err: Exception) -> JSONResponse:
    """Return the response for any error, in OpenAI's format."""
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


HANDLED_ERRORS: tuple[type[Exception], ...] = (
    ApiError,
    RequestValidationError,
    UnavailableError,
    grpc.RpcError,
    HTTPException,
)
"""Errors that ``error_response`` maps to a status of their own; any other one is 500."""
