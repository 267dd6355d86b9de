"""Traces: one for a request over gateway, sidecar, mission and engine, at a real collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import structlog
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bem_fleet.services.router.servicer import SERVICE
from bem_fleet.services.safety.build import build
from bem_fleet.services.safety.servicer import STATUS
from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs, mission
from fleet.clients import open_channel, wait_ready
from fleet.metrics import MetricsPage
from fleet.server import RunningServer, start
from fleet.testing import RedisServer
from structlog.testing import LogCapture

from tests.integration.memories import memory
from tests.integration.openai_clients import openai_client
from tests.integration.routers import tiny_router
from tests.integration.sidecars import shared_scorer
from tests.support.prometheus import prometheus_server
from tests.support.requirements import require
from tests.support.trace_collector import CollectedSpan, TraceCollector, trace_collector
from tests.support.waiting import eventually

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
SECRET = "zebra-crossing"
_SERVER, _CLIENT = 2, 3


@asynccontextmanager
async def sidecar_of(
    upstream: str, service: str, redis: RedisServer, **settings: Any
) -> AsyncIterator[RunningServer]:
    """Run the real sidecar in front of a mission."""
    own = SafetySettings(
        address="127.0.0.1:0",
        upstream=upstream,
        redis_url=redis.url,
        scorer_socket=await asyncio.to_thread(shared_scorer),
        check_timeout_s=60,
        deep_timeout_s=60,
        drain_s=1,
        **settings,
    )
    running = await start(own, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, service, 240)
        yield running
    finally:
        await running.stop()


@dataclass
class Traced:
    """A client of a traced fleet, and the collector that its services send to."""

    client: openai.AsyncOpenAI
    collector: TraceCollector

    async def chat(self, **fields: Any) -> Any:
        """Return the answer to a message that must not be in any span."""
        return await self.client.chat.completions.create(
            messages=[{"role": "user", "content": f"what is a {SECRET}?"}],
            max_tokens=6,
            **{"model": "alpha", "extra_headers": {"traceparent": SAMPLED}, **fields},
        )


@asynccontextmanager
async def traced_fleet(
    folder: Path, redis: RedisServer, ratio: float = 1.0
) -> AsyncIterator[Traced]:
    """Run tiny router, sidecar and gateway; what they record has arrived after the block."""
    async with trace_collector() as collector:
        traces: dict[str, Any] = {"otlp_endpoint": collector.address, "trace_ratio": ratio}
        async with (
            tiny_router(folder, **traces) as (router, _),
            sidecar_of(router.address, SERVICE, redis, **traces) as sidecar,
            openai_client(sidecar.address, redis_url=redis.url, **traces) as client,
        ):
            yield Traced(client, collector)


def outline(spans: list[CollectedSpan]) -> dict[str, Any]:
    """Return the spans of a trace as a tree of names; every parent must have arrived."""
    ids = {one.span_id for one in spans}
    roots = [one for one in spans if one.parent_id not in ids]
    assert [one.parent_id for one in roots] == [CALLER]

    def below(parent: CollectedSpan) -> dict[str, Any]:
        children = [one for one in spans if one.parent_id == parent.span_id]
        for one in children:
            assert parent.begin_ns <= one.begin_ns
            assert one.end_ns <= parent.end_ns
        return {f"{one.service} {one.name}": below(one) for one in children}

    return {f"{roots[0].service} {roots[0].name}": below(roots[0])}


async def test_request_is_one_trace_from_the_client_to_the_engine(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Each service's spans hang below its caller's; no span has a text of client or model."""
    async with traced_fleet(tmp_path, redis_server) as traced:
        answer = await traced.chat()
    spans, collector = traced.collector.trace(TRACE), traced.collector
    complete = "bemfleet.router.v1.RouterService/Complete"
    engine = next(one for one in spans if one.name == "engine.generate")

    assert outline(spans) == {
        "gateway POST /v1/chat/completions": {
            f"gateway {complete}": {
                f"safety {complete}": {
                    "safety safety.evaluate_request": {},
                    f"router {complete}": {"router engine.generate": {}},
                    "safety safety.evaluate_response": {},
                }
            }
        }
    }
    assert [one.kind for one in spans if complete in one.name] == [_CLIENT, _SERVER, _SERVER]
    assert not any(one.failed for one in spans)
    assert engine.attributes["gen_ai.request.model"] == "alpha"
    assert engine.attributes["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    assert engine.attributes["gen_ai.usage.input_tokens"] == answer.usage.prompt_tokens
    assert SECRET.encode() not in collector.raw
    assert answer.choices[0].message.content.encode() not in collector.raw


async def test_prometheus_keeps_the_traces_of_requests(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A bucket of each latency leads to the request's trace, in a real Prometheus."""
    latencies = ("bem_fleet_rpc_seconds", "bem_gateway_request_seconds", "bem_gateway_ttft_seconds")
    page = MetricsPage("127.0.0.1:0")
    target = {"targets": [f"127.0.0.1:{page.port}"]}
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "fleet", "static_configs": [target]}],
    }
    async with traced_fleet(tmp_path / "fleet", redis_server) as traced:
        async for _ in await traced.chat(stream=True):
            pass
    with prometheus_server(require("prometheus"), tmp_path, configuration) as server:
        await eventually(
            lambda: all(TRACE in server.exemplars(f"{name}_bucket", 60) for name in latencies), 30
        )
    page.close()


async def test_stream_and_plan_are_traced(tmp_path: Path, redis_server: RedisServer) -> None:
    """A planned stream has spans of the plan and of its step, which note the first token."""
    async with traced_fleet(tmp_path, redis_server) as traced:
        stream = await traced.chat(model="router", stream=True)
        text = "".join([one.choices[0].delta.content or "" async for one in stream])
    spans = traced.collector.trace(TRACE)
    by_name = {one.name: one for one in spans if one.service == "router"}
    generate = by_name["bemfleet.router.v1.RouterService/Generate"]

    assert list(outline(spans)) == ["gateway POST /v1/chat/completions"]
    assert by_name["router.plan"].parent_id == generate.span_id
    assert by_name["router.plan"].attributes["bem.plan.source"] == "fixed"
    assert by_name["engine.generate"].parent_id == generate.span_id
    assert by_name["engine.generate"].events == ("first_token",)
    assert SECRET.encode() not in traced.collector.raw
    assert text
    assert text.encode() not in traced.collector.raw


async def test_refused_request_fails_where_it_is_refused(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """The status is in the spans, the text of the error is not: it quotes the client."""
    async with traced_fleet(tmp_path, redis_server) as traced:
        with pytest.raises(openai.NotFoundError, match=SECRET):
            await traced.chat(model=SECRET)
    spans = traced.collector.trace(TRACE)
    by_kind = {(one.service, one.kind): one for one in spans}

    assert by_kind["gateway", _SERVER].attributes["http.response.status_code"] == 404
    assert by_kind["router", _SERVER].attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert by_kind["gateway", _CLIENT].failed
    assert not by_kind["router", _SERVER].failed  # the client's fault
    assert SECRET.encode() not in traced.collector.raw


async def test_only_sampled_requests_are_recorded(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A caller's flag decides; without a caller, the ratio. Logs name the trace in any case."""
    written = LogCapture()
    structlog.configure(processors=[logs._add_request, written])
    async with traced_fleet(tmp_path, redis_server, ratio=0.0) as traced:
        await traced.chat(extra_headers={"traceparent": UNSAMPLED})
        await traced.chat(extra_headers={"traceparent": f"00-{'0' * 32}-{CALLER}-01"})
        await traced.chat(extra_headers={})
        await traced.chat()
    structlog.reset_defaults()
    named = [one["trace_id"] for one in written.entries if one["event"] == "request"]

    assert {one.trace_id for one in traced.collector.spans} == {TRACE}
    assert len(traced.collector.spans) == len(traced.collector.trace(TRACE)) == 7
    assert (named[0], named[3]) == (TRACE, TRACE)
    assert len(set(named)) == 3  # each request without a valid caller has its own


async def test_memory_is_in_the_trace(tmp_path: Path, redis_server: RedisServer) -> None:
    """Reading a document is one trace over gateway, sidecar and memory."""
    async with trace_collector() as collector:
        traces: dict[str, Any] = {"otlp_endpoint": collector.address, "trace_ratio": 1}
        async with (
            memory(tmp_path, redis_server, **traces) as (_, running),
            sidecar_of(running.address, mission.SERVICE, redis_server, **traces) as sidecar,
        ):
            settings = GatewaySettings(
                missions={"router": "127.0.0.1:1", "memory": sidecar.address},
                redis_url=redis_server.url,
                **traces,
            )
            app = make_app(settings)
            transport = httpx.ASGITransport(app=app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://gateway") as http,
            ):
                body = {"session": SECRET, "document": "d", "text": f"The {SECRET} is red."}
                answer = await http.post(
                    "/v1/memory/ingest", json=body, headers={"traceparent": SAMPLED}
                )
                assert answer.status_code == 200, answer.text
    spans = collector.trace(TRACE)

    assert {one.service for one in spans} == {"gateway", "safety", "memory"}
    assert list(outline(spans)) == ["gateway POST /v1/memory/ingest"]
    assert {one.service for one in spans if one.name == "memory.ingest"} == {"memory"}
    assert SECRET.encode() not in collector.raw
