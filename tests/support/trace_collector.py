"""An OpenTelemetry collector in this process: takes spans over OTLP and keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fleet.listening import listen
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it arrived.

    Attributes:
        service: Name of the service that sent it.
        name: Name of the span.
        trace_id: Trace, as 32 hexadecimal digits.
        span_id: Span, as 16 hexadecimal digits.
        parent_id: Parent; empty for a root.
        kind: Number of the kind in OTLP.
        begin_ns: Begin, in nanoseconds since the epoch.
        end_ns: End, in nanoseconds since the epoch.
        failed: Whether its status is an error.
        attributes: Attributes by name; a list is a tuple.
        events: Names of its events.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begin_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    events: tuple[str, ...]


@dataclass
class TraceCollector(rpc.TraceServiceServicer):
    """Receiver of the OTLP trace service.

    Attributes:
        address: ``host:port`` at which it listens.
        spans: What has arrived.
        raw: All messages as they arrived.
    """

    address: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)
    raw: bytes = b""

    async def Export(  # noqa: N802 - the RPC's name
        self, request: pb.ExportTraceServiceRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ExportTraceServiceResponse:
        """Keep the spans of a request."""
        del context
        self.raw += request.SerializeToString()
        for one in request.resource_spans:
            service = _attributes(one.resource.attributes)["service.name"]
            for scope in one.scope_spans:
                self.spans += [_collected(service, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        """Return the spans of a trace in the order of their begin."""
        found = [one for one in self.spans if one.trace_id == trace_id]
        return sorted(found, key=lambda one: one.begin_ns)


@asynccontextmanager
async def trace_collector() -> AsyncIterator[TraceCollector]:
    """Serve a collector on a free port of loopback."""
    collector = TraceCollector()
    server = aio.server()
    rpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = listen(server, "127.0.0.1:0", None)
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def _collected(service: str, span: Any) -> CollectedSpan:
    return CollectedSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _attributes(span.attributes),
        tuple(event.name for event in span.events),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    found = getattr(value, value.WhichOneof("value"))
    return tuple(map(_value, found.values)) if hasattr(found, "values") else found
