"""Errors of the runtime, and how any error becomes a ``google.rpc.Status`` and back."""

import dataclasses
import math
from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "bem.dev"
StatusTable = Mapping[type[Exception], grpc.StatusCode]


class FleetError(Exception):
    """Base of the errors that the runtime itself raises."""


class InvalidArgumentError(FleetError):
    """A request field is wrong; raised with the field's name and the limit that it breaks."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFoundError(FleetError):
    """The thing that the request names does not exist."""


class FailedPreconditionError(FleetError):
    """The request is sound, but the state does not allow it; a retry alone does not help."""


class OverloadedError(FleetError):
    """There is no room now; ``retry_after_s`` says when to come back."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(FleetError):
    """Something that the answer needs cannot be reached; ``retry_after_s`` says when to retry."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeniedError(FleetError):
    """Policy forbids the answer; ``reason`` is a constant that a client can switch on."""

    def __init__(self, message: str, reason: str, metadata: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata)


STATUS: StatusTable = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    DeniedError: grpc.StatusCode.PERMISSION_DENIED,
}


def status_of(err: Exception, table: StatusTable) -> grpc.StatusCode:
    """Return the code of ``err``'s nearest listed ancestor, else INTERNAL."""
    return next((table[cls] for cls in type(err).__mro__ if cls in table), grpc.StatusCode.INTERNAL)


def to_status(err: Exception, table: StatusTable) -> status_pb2.Status:
    """Return ``err`` as a rich status; the text of an unlisted error never reaches a caller."""
    code = status_of(err, {**STATUS, **table})
    if code is grpc.StatusCode.INTERNAL:
        return status_pb2.Status(code=code.value[0], message="internal error; see the server's log")
    return status_pb2.Status(code=code.value[0], message=str(err), details=_details(err))


def _details(err: Exception) -> list[any_pb2.Any]:
    """Pack what the error carries as attributes into the standard detail messages."""
    messages: list[
        error_details_pb2.BadRequest | error_details_pb2.RetryInfo | error_details_pb2.ErrorInfo
    ] = []
    if isinstance(name := getattr(err, "field", None), str):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=name, description=str(getattr(err, "problem", err))
        )
        messages.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(delay := getattr(err, "retry_after_s", None), int | float):
        delay_ns = max(1, math.ceil(delay * 1e9))
        retry = duration_pb2.Duration(seconds=delay_ns // 10**9, nanos=delay_ns % 10**9)
        messages.append(error_details_pb2.RetryInfo(retry_delay=retry))
    if isinstance(reason := getattr(err, "reason", None), str):
        metadata = getattr(err, "metadata", {})
        messages.append(
            error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
        )
    packed = []
    for message in messages:
        detail = any_pb2.Any()
        detail.Pack(message)
        packed.append(detail)
    return packed


@dataclasses.dataclass(frozen=True)
class ErrorDetails:
    """A gRPC error as its receiver reads it.

    Attributes:
        code: The status code.
        message: The text meant for the caller.
        field: The request field that was wrong, if one is named.
        retry_after_s: Seconds after which a retry makes sense, if the server says so.
        reason: The machine-readable reason, such as ``CONTENT_FILTERED``.
        metadata: What belongs to the reason.
    """

    code: grpc.StatusCode
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    reason: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def details_of(err: grpc.RpcError) -> ErrorDetails:
    """Read code, message and the standard details out of ``err``."""
    code, message = err.code(), err.details() or ""
    found = ErrorDetails(code=code, message=message)
    try:
        status = rpc_status.from_call(err)
    except ValueError:  # a status that contradicts its own code: keep the plain one
        return found
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
