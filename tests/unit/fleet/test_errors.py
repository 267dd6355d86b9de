"""Errors keep their meaning over the wire."""

import grpc
import pytest
from fleet.errors import (
    MAX_MESSAGE_BYTES,
    DeniedError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    StatusTable,
    UnavailableError,
    code_and_message,
    details_of,
    status_of,
    to_status,
)
from google.rpc import error_details_pb2
from grpc import aio


class AdapterMissingError(LookupError):
    """A domain error that knows nothing of gRPC."""


TABLE: StatusTable = {LookupError: grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize(
    ("err", "code"),
    [
        (
            InvalidArgumentError("max_tokens", "must be at least 1"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (NotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (OverloadedError("full", 0.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (UnavailableError("down"), grpc.StatusCode.UNAVAILABLE),
        (DeniedError("no", "CONTENT_FILTERED", {}), grpc.StatusCode.PERMISSION_DENIED),
        (AdapterMissingError("y"), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_known_error_gets_its_code(err: Exception, code: grpc.StatusCode) -> None:
    """Runtime errors and a service's own errors, also by ancestor, map to their codes."""
    assert to_status(err, TABLE).code == code.value[0]
    assert to_status(err, TABLE).message == str(err)


def test_unlisted_error_hides_its_text() -> None:
    """A caller never reads the text of an error that nobody foresaw."""
    status = to_status(RuntimeError("password=secret"), TABLE)

    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in status.message
    assert status_of(RuntimeError(), {}) is grpc.StatusCode.INTERNAL


def test_field_and_delay_become_standard_details() -> None:
    """BadRequest names the field; RetryInfo carries the delay to the nanosecond."""
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()

    assert to_status(InvalidArgumentError("stop", "too long"), {}).details[0].Unpack(bad)
    assert to_status(OverloadedError("full", 1.25), {}).details[0].Unpack(retry)

    assert bad.field_violations[0].field == "stop"
    assert bad.field_violations[0].description == "too long"
    assert retry.retry_delay.seconds == 1
    assert retry.retry_delay.nanos == 250_000_000


def test_denied_error_carries_reason_and_domain() -> None:
    """ErrorInfo lets a client tell a withheld answer from any other refusal."""
    info = error_details_pb2.ErrorInfo()
    err = DeniedError("withheld", "CONTENT_FILTERED", {"category": "toxicity"})

    assert to_status(err, {}).details[0].Unpack(info)

    assert (info.reason, info.domain) == ("CONTENT_FILTERED", "bem.dev")
    assert info.metadata["category"] == "toxicity"


@pytest.mark.parametrize("character", ["x", "\0", "й", "👩", "\ud800"])
def test_error_that_repeats_a_long_value_fits_the_trailers(character: str) -> None:
    """A caller's own text of any length and alphabet leaves less than 8 KB of trailers."""
    long = character * 70_000
    for err in (
        InvalidArgumentError(long, long),
        NotFoundError(long),
        DeniedError(long, "CONTENT_FILTERED", {"category": long}),
    ):
        status = to_status(err, {})
        percent_encoded = 3 * len(status.message.encode())
        details = len(status.SerializeToString()) * 4 / 3

        assert percent_encoded + details < 8_000
        assert len(status.message.encode()) <= MAX_MESSAGE_BYTES + len("…".encode())
        assert status.message.endswith("…")


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (grpc.StatusCode.INTERNAL, "Internal error from Core", grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.INTERNAL, "internal error", grpc.StatusCode.INTERNAL),
        (grpc.StatusCode.NOT_FOUND, "Internal error from Core", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_call_that_ended_under_a_request_is_unavailable(
    code: grpc.StatusCode, text: str, told: grpc.StatusCode
) -> None:
    """It may be made again; other internal errors stay what they are."""
    err = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=text)

    assert code_and_message(err)[0] is details_of(err).code is told
    assert ("try again" in code_and_message(err)[1]) == (told is grpc.StatusCode.UNAVAILABLE)
