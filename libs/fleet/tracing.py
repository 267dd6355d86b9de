"""Distributed tracing: spans of a request, joined over all services by W3C trace contexts.

A server that has a tracer opens a span for each call, and code that serves the call opens spans
below it. ``fleet.logs.traceparent`` names the innermost span, so that log lines and the metadata of
calls to other services follow it. Without a collector there is no tracer: ``span`` is one look-up,
and the trace context of a client passes through unchanged.

Spans have names, times, counts and codes. Texts of clients and of models are never in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import grpc
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from fleet import logs, wire
from fleet.settings import PREFIX, FleetSettings

if TYPE_CHECKING:
    from fleet.trace_export import TraceExport

AttributeValue: TypeAlias = "str | bool | int | float | Sequence[str]"
Attributes: TypeAlias = "Mapping[str, AttributeValue]"
Metadata: TypeAlias = "tuple[tuple[str, str], ...]"

RPC_STATUS = "rpc.response.status_code"
"""Attribute of a gRPC call's span: name of its status."""

# https://opentelemetry.io/docs/specs/semconv/rpc/grpc: other statuses are the caller's fault.
_SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_FLAGS = 0x03  # sampled and random: https://www.w3.org/TR/trace-context-2
# What polls a server: each call would begin a trace of its own.
_UNTRACED = ("/grpc.health.", "/grpc.reflection.", "/bemfleet.common.")

_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)


class Span:
    """Span of a request that is not traced; what is recorded in it is dropped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def set(self, name: str, value: AttributeValue) -> None:
        """Set an attribute, which must not be a text of a client or of a model."""

    def event(self, name: str) -> None:
        """Record that something happened now."""

    def rename(self, name: str) -> None:
        """Give the span another name, of few that exist."""

    def fail(self, reason: str) -> None:
        """Mark the span as failed, with a code or the name of an error as the reason."""

    def carried(self, metadata: Metadata) -> Metadata:
        """Return the metadata of a call that runs in the span."""
        return metadata


_NOT_TRACED = Span()


class _RecordedSpan(Span):
    """Span below the one that ``fleet.logs.traceparent`` names, while it is entered.

    Args:
        tracer: Tracer of the server; spans below this one use it too.
        name: Name of the span, of few that exist.
        kind: Side of a call, or work inside a process.
        attributes: Attributes that are known at the start.
    """

    def __init__(
        self, tracer: Tracer, name: str, kind: SpanKind, attributes: Attributes | None
    ) -> None:
        self._tracer, self._name, self._kind, self._attributes = tracer, name, kind, attributes

    def __enter__(self) -> Self:
        # Set and restored without tokens: a generator may be closed in another context.
        self._outer_tracer, self._outer = _tracer.get(), logs.traceparent.get()
        self._span = self._tracer.start_span(
            self._name, set_span_in_context(_remote(self._outer)), self._kind, self._attributes
        )
        self.traceparent = _format(self._span.get_span_context())
        logs.traceparent.set(self.traceparent)
        _tracer.set(self._tracer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The text of an error may quote a client; its kind does not.
        if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
            self.set(RPC_STATUS, error.code().name)
            self.fail(error.code().name)
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            self.fail(type(error).__name__)
        elif isinstance(error, asyncio.CancelledError):
            self._span.add_event("cancelled")
        self._span.end()
        logs.traceparent.set(self._outer)
        _tracer.set(self._outer_tracer)

    def set(self, name: str, value: AttributeValue) -> None:
        self._span.set_attribute(name, value)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.set_attribute("error.type", reason)

    def carried(self, metadata: Metadata) -> Metadata:
        others = tuple(pair for pair in metadata if pair[0] != wire.TRACEPARENT)
        return (*others, (wire.TRACEPARENT, self.traceparent))


def span(
    name: str, attributes: Attributes | None = None, *, kind: SpanKind = SpanKind.INTERNAL
) -> Span:
    """Return a span below the current one; it begins and ends with its ``with`` block.

    Args:
        name: Name of the work, of few that exist.
        attributes: Attributes that are known at the start.
        kind: ``CLIENT`` for a call to another service.
    """
    tracer = _tracer.get()
    return _NOT_TRACED if tracer is None else _RecordedSpan(tracer, name, kind, attributes)


def server_span(tracer: Tracer | None, name: str, attributes: Attributes | None = None) -> Span:
    """Return the span of a request that a server has received, below the client's if it has one.

    Args:
        tracer: Tracer of the server; None while tracing is off.
        name: Name of the kind of request.
        attributes: Attributes that are known at the start.
    """
    if tracer is None:
        return _NOT_TRACED
    return _RecordedSpan(tracer, name, SpanKind.SERVER, attributes)


def rpc_span(tracer: Tracer | None, path: str) -> Span:
    """Return the span of a gRPC call that a server has received; none for health and the like.

    Args:
        tracer: Tracer of the server; None while tracing is off.
        path: Call path, ``/package.Service/Method``.
    """
    if tracer is None or path.startswith(_UNTRACED):
        return _NOT_TRACED
    name = path.removeprefix("/")
    return server_span(tracer, name, {"rpc.system.name": "grpc", "rpc.method": name})


def record_rpc_status(one: Span, code: str) -> None:
    """Record the status of a gRPC call in its span, as a failure if it is the server's fault."""
    one.set(RPC_STATUS, code)
    if code in _SERVER_FAULTS:
        one.fail(code)


def exemplar() -> dict[str, str] | None:
    """Return what joins a measurement to the current span; None unless its trace is recorded."""
    if _tracer.get() is None:
        return None
    context = _remote(logs.traceparent.get()).get_span_context()
    if not context.trace_flags.sampled:
        return None
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def trace_export(settings: FleetSettings) -> TraceExport | None:
    """Return the export of a service's spans; None unless its settings name a collector."""
    if settings.otlp_endpoint is None:
        return None
    from fleet.trace_export import TraceExport  # noqa: PLC0415 - loads 5 MB

    prefix = str(settings.model_config.get("env_prefix", ""))
    service = prefix.removeprefix(PREFIX).strip("_").lower().replace("_", "-")
    return TraceExport(service or "fleet", settings.otlp_endpoint, settings.trace_ratio)


def _remote(traceparent: str) -> NonRecordingSpan:
    """Return the span that a checked trace context names; an invalid one for an empty context."""
    if not traceparent:
        return NonRecordingSpan(SpanContext(0, 0, is_remote=False))
    _, trace_id, span_id, flags = traceparent.split("-")
    known = TraceFlags(int(flags, 16) & _FLAGS)
    return NonRecordingSpan(SpanContext(int(trace_id, 16), int(span_id, 16), True, known))


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
