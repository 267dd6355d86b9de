"""Export of spans over OTLP to a collector in this process."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from fleet import logs
from fleet.trace_export import TraceExport
from fleet.tracing import server_span
from opentelemetry.trace import TraceFlags

from tests.support.trace_collector import trace_collector

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"


async def test_spans_arrive_when_the_service_stops() -> None:
    """What is queued is sent; attributes are cut at their limit."""
    async with trace_collector() as collector:
        export = TraceExport("sample", f"http://{collector.address}", 1)
        with server_span(export.tracer, "serve", {"long": "x" * 1000, "list": ["a", "b"]}):
            pass
        await export.close()

    (arrived,) = collector.spans
    assert (arrived.service, arrived.name, arrived.parent_id) == ("sample", "serve", "")
    assert arrived.attributes == {"long": "x" * 256, "list": ("a", "b")}
    assert f"{socket.gethostname()}:{os.getpid()}".encode() in collector.raw


@pytest.mark.parametrize(
    ("ratio", "caller", "recorded"),
    [(1, "", True), (0, "", False), (0, f"{CALLER}1", True), (1, f"{CALLER}0", False)],
)
async def test_caller_decides_before_the_ratio(ratio: float, caller: str, recorded: bool) -> None:
    """The ratio applies to traces that begin here; the decision is passed on."""
    async with trace_collector() as collector:
        export = TraceExport("sample", collector.address, ratio)
        token = logs.traceparent.set(caller)
        with server_span(export.tracer, "serve"):
            passed = logs.traceparent.get()
        logs.traceparent.reset(token)
        await export.close()

    assert bool(collector.spans) is recorded
    assert bool(int(passed[-2:], 16) & TraceFlags.SAMPLED) is recorded


async def test_a_collector_that_is_down_holds_nobody_up() -> None:
    """Spans are dropped, and the service stops before its pod is killed."""
    export = TraceExport("sample", "127.0.0.1:1", 1)
    for _ in range(5000):
        with server_span(export.tracer, "serve"):
            pass
    await asyncio.wait_for(export.close(), timeout=15)
