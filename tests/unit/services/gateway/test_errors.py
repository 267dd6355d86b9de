"""Mapping of errors to HTTP in OpenAI's format."""

import json
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.errors import error_response, from_fleet, from_rpc
from fleet.errors import DeniedError, RateLimitedError, UnauthenticatedError, UnavailableError
from grpc import aio


def rpc_error(code: grpc.StatusCode) -> aio.AioRpcError:
    """Return an error of a call."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details="text")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.UNAUTHENTICATED, 401),
        (grpc.StatusCode.PERMISSION_DENIED, 403),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.DATA_LOSS, 500),
    ],
)
def test_grpc_code_becomes_a_status(code: grpc.StatusCode, status: int) -> None:
    """A retry has a delay where it makes sense; an unlisted code is 500."""
    error = from_rpc(rpc_error(code))

    assert error.status == status
    assert ("Retry-After" in error.headers) == (status in (429, 503))
    assert ("WWW-Authenticate" in error.headers) == (status == 401)


def test_refusal_by_access_control_has_a_code_of_its_own() -> None:
    """A client can tell a limit of its key from a full queue, and a small role from a filter."""
    denied = DeniedError("too small", "ROLE_REQUIRED", {})
    limited = from_fleet(RateLimitedError("web: 3 requests a minute", 12.2))
    found = [from_fleet(one) for one in (UnauthenticatedError("wrong"), denied)]

    assert [(one.status, one.body["code"]) for one in (*found, limited)] == [
        (401, "invalid_api_key"),
        (403, "role_required"),
        (429, "rate_limit_exceeded"),
    ]
    assert limited.headers["Retry-After"] == "13"


async def test_unforeseen_error_hides_its_text() -> None:
    """A client never reads the text of an error that nobody foresaw."""
    request: Any = None
    hidden = await error_response(request, RuntimeError("secret"))
    shown = await error_response(request, UnavailableError("Redis is away"))

    assert (hidden.status_code, shown.status_code) == (500, 503)
    assert b"secret" not in hidden.body
    assert json.loads(bytes(shown.body))["error"]["message"] == "Redis is away"
