"""Errors of the runtime, and their conversion to ``google.rpc.Status`` and back."""

import dataclasses
import math
from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from fleet.wire import ERROR_DOMAIN

StatusTable = Mapping[type[Exception], grpc.StatusCode]

MAX_MESSAGE_BYTES = 1_000
"""Longest text of an error, in bytes. It is sent in trailers, percent-encoded and once more in the
details; a peer refuses more than 8 KB of them, and the caller would see another error."""

_MAX_FIELD_BYTES = 200
# grpc.aio's text where a request was written to a call that had just ended; the status that the
# server gave is lost then.
_CORE_ERROR = "Internal error from Core"


class FleetError(Exception):
    """Base class of the errors that the runtime raises."""


class InvalidArgumentError(FleetError):
    """A request field is wrong; carries the field's name and the limit that it exceeds."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFoundError(FleetError):
    """The request names something that does not exist."""


class FailedPreconditionError(FleetError):
    """The request is valid, but the current state does not allow it; a retry does not help."""


class OverloadedError(FleetError):
    """A queue or a limit is full; a retry after ``retry_after_s`` seconds may succeed."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """A caller has reached a limit of its key; a retry after ``retry_after_s`` succeeds."""


class UnauthenticatedError(FleetError):
    """The caller's key is wrong, or missing where one is needed."""


class UnavailableError(FleetError):
    """A dependency cannot be reached; a retry after ``retry_after_s`` seconds may succeed."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeniedError(FleetError):
    """Policy forbids the answer; ``reason`` is a constant of ``fleet.wire`` for clients."""

    def __init__(self, message: str, reason: str, metadata: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata)


class ForwardedError(FleetError):
    """An upstream call failed, and its error ends the caller's call as it is.

    Attributes:
        code: Status code.
        trailing_metadata: Trailing metadata, standard details among them.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.trailing_metadata = trailing_metadata


STATUS: StatusTable = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    DeniedError: grpc.StatusCode.PERMISSION_DENIED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
}


def status_of(err: Exception, table: StatusTable) -> grpc.StatusCode:
    """Return the code of the nearest base class of ``err`` that is listed, else INTERNAL."""
    return next((table[cls] for cls in type(err).__mro__ if cls in table), grpc.StatusCode.INTERNAL)


def to_status(err: Exception, table: StatusTable) -> status_pb2.Status:
    """Return ``err`` as a rich status; callers never receive the text of an unlisted error."""
    code = status_of(err, {**STATUS, **table})
    if code is grpc.StatusCode.INTERNAL:
        return status_pb2.Status(code=code.value[0], message="internal error; see the server's log")
    return status_pb2.Status(code=code.value[0], message=shorten(str(err)), details=_details(err))


def shorten(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """Return a text that fits the trailers of a call; what is cut off is shown as an ellipsis.

    Args:
        text: Text of an error, in which callers' own values may be repeated.
        limit: Longest result in bytes of UTF-8, without the ellipsis.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[:limit].decode("utf-8", "ignore") + "…"


def _details(err: Exception) -> list[any_pb2.Any]:
    """Pack the error's attributes into the standard detail messages."""
    messages: list[
        error_details_pb2.BadRequest | error_details_pb2.RetryInfo | error_details_pb2.ErrorInfo
    ] = []
    if isinstance(name := getattr(err, "field", None), str):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=shorten(name, _MAX_FIELD_BYTES),
            description=shorten(str(getattr(err, "problem", err))),
        )
        messages.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(delay := getattr(err, "retry_after_s", None), int | float):
        delay_ns = max(1, math.ceil(delay * 1e9))
        retry = duration_pb2.Duration(seconds=delay_ns // 10**9, nanos=delay_ns % 10**9)
        messages.append(error_details_pb2.RetryInfo(retry_delay=retry))
    if isinstance(reason := getattr(err, "reason", None), str):
        given = getattr(err, "metadata", {})
        metadata = {key: shorten(value, _MAX_FIELD_BYTES) for key, value in given.items()}
        messages.append(
            error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)
        )
    packed = []
    for message in messages:
        detail = any_pb2.Any()
        detail.Pack(message)
        packed.append(detail)
    return packed


@dataclasses.dataclass(frozen=True)
class ErrorDetails:
    """Code, message and standard details of a gRPC error.

    Attributes:
        code: Status code.
        message: Text for the caller.
        field: Name of the wrong request field; None if the server names none.
        retry_after_s: Delay before a retry, in seconds; None if the server gives none.
        reason: Machine-readable reason, such as ``CONTENT_FILTERED``.
        metadata: Metadata of the reason.
    """

    code: grpc.StatusCode
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    reason: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def code_and_message(err: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return code and message of ``err``.

    A call that ended while a request was written to it is UNAVAILABLE: no server failed, and the
    call may be made again.
    """
    code, message = err.code(), err.details() or ""
    if code is grpc.StatusCode.INTERNAL and message == _CORE_ERROR:
        return grpc.StatusCode.UNAVAILABLE, "the call ended while a request was sent; try again"
    return code, message


def details_of(err: grpc.RpcError) -> ErrorDetails:
    """Return code, message and standard details of ``err``."""
    code, message = code_and_message(err)
    try:
        status = rpc_status.from_call(err)
    except ValueError:  # the status contradicts the call's own code
        return ErrorDetails(code=code, message=message)
    field_name = retry_after_s = reason = None
    metadata: dict[str, str] = {}
    for detail in status.details if status else ():
        bad, retry, info = (
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.ErrorInfo(),
        )
        if detail.Unpack(bad) and bad.field_violations:
            field_name = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
    return ErrorDetails(code, message, field_name, retry_after_s, reason, metadata)
