"""Export of spans to an OpenTelemetry collector: OTLP over gRPC, in batches, from its own thread.

Requests never wait for the collector: a batch that it does not take in time is dropped, and so are
spans beyond a bounded queue. The SDK's own variables, such as ``OTEL_RESOURCE_ATTRIBUTES``,
``OTEL_EXPORTER_OTLP_HEADERS`` and ``OTEL_EXPORTER_OTLP_CERTIFICATE``, apply too.
"""

import asyncio
import os
import socket
import threading

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from fleet.version import VERSION

NAMESPACE = "bem-fleet"
"""``service.namespace`` of every span."""
_EXPORT_S, _CLOSE_S, _DELAY_MS, _QUEUED_SPANS = 5.0, 3.0, 1000, 4096
_ATTRIBUTE_CHARS = 256


class TraceExport:
    """Tracer of one service, whose spans go to a collector.

    Args:
        service: Name of the service.
        endpoint: ``host:port`` or ``http://host:port`` of the collector without TLS, or
            ``https://host:port``.
        ratio: Share of the traces that begin here which is recorded, in [0, 1]. A trace that a
            caller began is recorded if the caller records it.

    Attributes:
        tracer: Tracer of the service.
    """

    def __init__(self, service: str, endpoint: str, ratio: float) -> None:
        resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": NAMESPACE,
                "service.version": VERSION,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=_ATTRIBUTE_CHARS),
        )
        self._exporter = OTLPSpanExporter(
            endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_S
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter, max_queue_size=_QUEUED_SPANS, schedule_delay_millis=_DELAY_MS
            )
        )
        self.tracer = self._provider.get_tracer(NAMESPACE, VERSION)

    async def close(self) -> None:
        """Send what is queued, for at most three seconds, and end the thread.

        The provider alone waits for each queued batch as long as for an export: 26 s for 5,000
        spans and a collector that is down, which is most of the time that a pod has to end.
        """
        deadline = threading.Timer(_CLOSE_S, self._exporter.shutdown)
        deadline.daemon = True
        deadline.start()
        try:
            await asyncio.to_thread(self._provider.shutdown)
        finally:
            deadline.cancel()
