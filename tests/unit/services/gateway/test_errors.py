"""Mapping of errors to HTTP in OpenAI's format."""

import json
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.errors import (
    error_response,
    from_fleet,
    from_rpc,
    from_validation,
)
from fleet.errors import (
    DeniedError,
    InvalidArgumentError,
    OverloadedError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
    to_status,
)
from grpc import aio
from grpc_status import rpc_status

from tests.unit.services.gateway.test_withheld import denied


def with_details(err: Exception) -> aio.AioRpcError:
    """Return the error of a call that failed with ``err`` in the mission."""
    status = rpc_status.to_status(to_status(err, {}))
    trailing = aio.Metadata(*status.trailing_metadata)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


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
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.DATA_LOSS, 500),
    ],
)
def test_grpc_code_becomes_a_status(code: grpc.StatusCode, status: int) -> None:
    """A retry has a delay where it makes sense; an unlisted code is 500."""
    error = from_rpc(rpc_error(code))

    assert error.status == status
    assert ("Retry-After" in error.headers) == (status == 503)
    assert (error.headers.get("X-Should-Retry") == "false") == (status == 429)
    assert ("WWW-Authenticate" in error.headers) == (status == 401)


def test_retry_is_advised_where_it_can_help() -> None:
    """A full queue says when to retry; a limit that stays says that a retry cannot help."""
    details = {
        err: from_rpc(with_details(err)).headers
        for err in (OverloadedError("the queue is full", 2.5), OverloadedError("at once", 0.1))
    }

    assert list(details.values()) == [{"Retry-After": "3"}, {"Retry-After": "1"}]


def test_field_is_named_once_and_as_in_the_body() -> None:
    """Param and message have the path that the caller sent."""
    error = from_rpc(
        with_details(InvalidArgumentError("request.chat.messages[2].content", "is bad; mend it"))
    )

    assert error.body["param"] == "messages.2.content"
    assert error.body["message"] == "messages.2.content: is bad; mend it"


@pytest.mark.parametrize(
    ("kind", "place", "param"),
    [
        ("string_too_short", ("stop", 0), "stop"),
        ("string_too_short", ("prompt", 1), "prompt.1"),
        ("string_too_short", ("logit_bias", "x", "[key]"), "logit_bias.x"),
        ("string_too_short", ("messages", 0, "content", 0, "text"), "messages.0.content"),
        ("string_type", ("messages", 0, "str"), "messages.0"),
        ("extra_forbidden", ("messages", 0, "UserMessage", "role"), "messages.0.role"),
        ("missing", ("messages", 0, "name"), "messages.0.name"),
        ("missing", ("messages", 0, "UserMessage", "name"), "messages.0.name"),
        ("missing", ("missing",), "missing"),
    ],
)
def test_paths_end_where_the_body_does(kind: str, place: tuple[Any, ...], param: str) -> None:
    """What the schema adds to a value of the caller is no part of the path."""
    body = {
        "stop": "",
        "prompt": ["a", ""],
        "logit_bias": {"x": 1},
        "messages": [{"role": "user", "content": "hi"}],
    }
    problem = {"type": kind, "loc": place, "msg": "is bad"}

    assert from_validation([problem], body).body["param"] == param


def test_validation_errors_have_no_words_of_the_library() -> None:
    """The message is the field, the problem and what to do."""
    problem = {"type": "value_error", "loc": ("body", "n"), "msg": "Value error, is odd; even it"}

    assert from_validation([problem]).body["message"] == "n: is odd; even it"


def test_withheld_text_is_an_error_with_its_reason() -> None:
    """Azure's innererror names the category; the header does too."""
    withheld = from_rpc(denied(prompt_tokens="5"))
    inner = withheld.body["innererror"]

    assert (withheld.status, withheld.body["code"]) == (403, "content_filter")
    assert inner["content_filter_result"]["harm"]["score"] == 0.912
    assert inner["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    assert "category=harm" in withheld.headers["x-bem-content-filter"]


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
