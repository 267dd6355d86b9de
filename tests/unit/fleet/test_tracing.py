"""Spans of requests: parents, what is recorded of errors, and what happens while tracing is off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fleet import logs
from fleet.errors import NotFoundError
from fleet.settings import FleetSettings
from fleet.tracing import (
    Span,
    exemplar,
    record_rpc_status,
    rpc_span,
    server_span,
    span,
    trace_export,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, SPAN_ID = int(CALLER[3:35], 16), int(CALLER[36:52], 16)
Finished = Callable[[], dict[str, ReadableSpan]]


@pytest.fixture(autouse=True)
def _own_context() -> Iterator[None]:
    token = logs.traceparent.set("")
    yield
    logs.traceparent.reset(token)


@pytest.fixture
def recorded() -> tuple[Tracer, Finished]:
    """A tracer, and its finished spans by name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def finished() -> dict[str, ReadableSpan]:
        return {one.name: one for one in exporter.get_finished_spans()}

    return provider.get_tracer("test"), finished


def _attributes(one: ReadableSpan) -> dict[str, Any]:
    return dict(one.attributes or {})


def test_span_hangs_below_the_callers(recorded: tuple[Tracer, Finished]) -> None:
    """Inside a span, calls and log lines name it; afterwards, what was before."""
    tracer, finished = recorded
    logs.traceparent.set(CALLER)
    with server_span(tracer, "serve"):
        outer = logs.traceparent.get()
        with span("work", {"n": 3}) as one:
            one.event("half")
            inner = logs.traceparent.get()
        back = logs.traceparent.get()
    spans = finished()
    serve, work = spans["serve"], spans["work"]

    assert serve.parent
    assert (serve.parent.trace_id, serve.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert work.parent
    assert work.parent.span_id == serve.context.span_id
    assert inner == f"{CALLER[:35]}-{work.context.span_id:016x}-01"
    assert back == outer == f"{CALLER[:35]}-{serve.context.span_id:016x}-01"
    assert logs.traceparent.get() == CALLER
    assert _attributes(work) == {"n": 3}
    assert [event.name for event in work.events] == ["half"]


def test_request_without_a_caller_begins_a_trace(recorded: tuple[Tracer, Finished]) -> None:
    """Its spans have a trace of their own, and it ends with the request."""
    tracer, finished = recorded
    with server_span(tracer, "first"), span("inner"):
        pass
    with server_span(tracer, "second"):
        pass
    spans = finished()

    assert spans["first"].parent is None
    assert spans["inner"].context.trace_id == spans["first"].context.trace_id
    assert spans["second"].context.trace_id != spans["first"].context.trace_id


async def test_concurrent_requests_do_not_mix(recorded: tuple[Tracer, Finished]) -> None:
    """Each task has its own current span."""
    tracer, finished = recorded
    meeting = asyncio.Barrier(2)

    async def serve(name: str) -> None:
        with server_span(tracer, name):
            await meeting.wait()
            with span(f"{name} work"):
                await meeting.wait()

    await asyncio.gather(serve("a"), serve("b"))
    spans = finished()

    for name in "ab":
        assert spans[f"{name} work"].context.trace_id == spans[name].context.trace_id


async def test_span_of_a_stream_ends_when_it_is_closed(recorded: tuple[Tracer, Finished]) -> None:
    """A client that leaves early is no failure."""
    tracer, finished = recorded

    async def stream() -> AsyncIterator[int]:
        with span("stream"):
            yield 1
            yield 2

    with server_span(tracer, "serve"):
        values: Any = stream()
        await anext(values)
        await values.aclose()

    assert finished()["stream"].status.status_code is StatusCode.UNSET


def test_error_is_recorded_by_its_kind_alone(recorded: tuple[Tracer, Finished]) -> None:
    """Texts of errors quote clients."""
    tracer, finished = recorded
    with pytest.raises(NotFoundError), server_span(tracer, "serve"), span("work"):
        raise NotFoundError("model: 'my secret' is not loaded")
    work = finished()["work"]

    assert work.status.status_code is StatusCode.ERROR
    assert _attributes(work) == {"error.type": "NotFoundError"}
    assert "secret" not in work.to_json()


@pytest.mark.parametrize(
    ("code", "failed"), [("OK", False), ("NOT_FOUND", False), ("UNAVAILABLE", True)]
)
def test_call_fails_by_the_servers_fault_only(
    recorded: tuple[Tracer, Finished], code: str, failed: bool
) -> None:
    """The status is an attribute in any case."""
    tracer, finished = recorded
    with rpc_span(tracer, "/sample.v1.S/M") as one:
        record_rpc_status(one, code)
    call = finished()["sample.v1.S/M"]

    assert (call.status.status_code is StatusCode.ERROR) is failed
    assert _attributes(call)["rpc.response.status_code"] == code


def test_probes_are_not_traced(recorded: tuple[Tracer, Finished]) -> None:
    """Kubelets and scrapers would begin a trace every few seconds."""
    tracer, finished = recorded
    for path in ("/grpc.health.v1.Health/Check", "/bemfleet.common.v1.MetricsService/Metrics"):
        with rpc_span(tracer, path):
            assert logs.traceparent.get() == ""

    assert finished() == {}


def test_call_carries_the_span_that_it_runs_in(recorded: tuple[Tracer, Finished]) -> None:
    """It replaces the trace context of the request."""
    tracer, finished = recorded
    metadata = (("x-request-id", "r"), ("traceparent", CALLER))
    with server_span(tracer, "serve"), span("call") as one:
        carried = dict(one.carried(metadata))

    assert carried["x-request-id"] == "r"
    assert carried["traceparent"][36:52] == f"{finished()['call'].context.span_id:016x}"


def test_nothing_is_recorded_while_tracing_is_off() -> None:
    """All spans are one object, and the client's trace context passes through."""
    logs.traceparent.set(CALLER)
    with rpc_span(None, "/sample.v1.S/M") as call, span("work") as one:
        one.set("n", 1)
        one.event("e")
        one.rename("other")
        one.fail("INTERNAL")
        passed = logs.traceparent.get()

    assert call is one is span("more")
    assert type(one) is Span
    assert one.carried((("a", "b"),)) == (("a", "b"),)
    assert passed == CALLER


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["01", "00"])
def test_exemplar_names_the_current_span_of_a_sampled_trace(
    recorded: tuple[Tracer, Finished], flags: str
) -> None:
    """A trace that nobody records cannot be looked up, so no measurement refers to it."""
    logs.traceparent.set(f"{CALLER.rsplit('-', 1)[0]}-{flags}")
    outside = exemplar()
    with server_span(recorded[0], "call"):
        inside = exemplar()
        _, trace_id, span_id, _ = logs.traceparent.get().split("-")

    assert outside is None
    assert inside == ({"trace_id": trace_id, "span_id": span_id} if flags == "01" else None)


def test_service_without_a_collector_exports_nothing() -> None:
    """The exporter is not even loaded."""
    code = (
        "import sys; from fleet import server, tracing; from fleet.settings import FleetSettings\n"
        "assert tracing.trace_export(FleetSettings()) is None\n"
        "assert not [one for one in sys.modules if one.startswith('opentelemetry.exporter')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


async def test_spans_carry_the_services_name() -> None:
    """It is that of its settings' prefix; nobody listens at the collector's address."""

    class SampleSettings(FleetSettings, env_prefix="BEM_SAMPLE_"):
        """Settings of a service."""

    export = trace_export(SampleSettings(otlp_endpoint="127.0.0.1:1", trace_ratio=1))
    assert export
    made: Any = export.tracer.start_span("work")
    await export.close()

    assert made.resource.attributes["service.name"] == "sample"
