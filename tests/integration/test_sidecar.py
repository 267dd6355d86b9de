"""Sidecar in front of a canned mission: filtering, streaming, failures and forwarding."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import redis.asyncio as redis
from bem_fleet.services.router.servicer import SERVICE
from bem_fleet.services.safety.recent_refusals import HOLD_S
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from fleet.clients import wait_ready
from fleet.errors import details_of
from fleet.testing import RedisServer
from fleet.wire import AUDIT_STREAM, CONTENT_FILTERED
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from inference import open_inference_pb2 as oip
from prometheus_client import REGISTRY

from tests.integration.sidecars import Scene, scene

BAD = "you are a fucking stupid idiot"
CLEAN = "The harbour was quiet that morning and the boats lay still in the pale light. "


@pytest.fixture
async def fleet(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Scene]:
    """A mission behind its sidecar."""
    async with scene(tmp_path, redis_server) as running:
        yield running


async def audit_of(redis_server: RedisServer) -> list[dict[str, str]]:
    """Return the audit records in order."""
    async with redis.Redis.from_url(redis_server.url) as client:
        stored: Any = await client.xrange(AUDIT_STREAM)
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in stored]


async def test_clean_stream_passes_unchanged_and_is_audited(
    fleet: Scene, redis_server: RedisServer
) -> None:
    """All text arrives in order; the record has the method, but not the text."""
    fleet.router.pieces = [CLEAN[i : i + 5] for i in range(0, len(CLEAN), 5)] * 3
    answers = await fleet.generate()
    records = await audit_of(redis_server)

    assert "".join(answer.text for answer in answers) == "".join(fleet.router.pieces)
    assert answers[-1].finish_reason == pb.FINISH_REASON_STOP
    assert [(r["method"], r["action"], r["status"]) for r in records] == [
        (f"/{SERVICE}/Generate", "allow", "OK")
    ]
    assert records[0]["chars"] == str(3 * len(CLEAN))
    assert "harbour" not in str(records)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_violating_span_is_withheld_however_the_stream_is_split(
    fleet: Scene, redis_server: RedisServer, size: int
) -> None:
    """The stream ends with CONTENT_FILTERED and no word of the span is released."""
    whole = CLEAN * 3 + BAD + " " + CLEAN
    fleet.router.pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    seen: list[str] = []
    call = fleet.stub.Generate(pb.GenerateRequest(prompt="hi"))
    with pytest.raises(aio.AioRpcError) as caught:
        await collect(call, seen)
    found = details_of(caught.value)

    assert (found.code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, CONTENT_FILTERED)
    # Whichever of the two is certain first, which depends on where the stream is split.
    assert found.metadata["category"] in {"abuse", "toxicity"}
    out = "".join(seen)
    assert (CLEAN * 3).startswith(out)
    assert [r["action"] for r in await audit_of(redis_server)] == ["filter"]


async def test_text_is_released_while_the_mission_still_streams(fleet: Scene) -> None:
    """The hold-back is a window, not a wait for the end of the stream."""
    fleet.router.pieces = [CLEAN, CLEAN, "...", "end"]
    call = fleet.stub.Generate(pb.GenerateRequest(prompt="hi"))
    stream = aiter(call)
    first = await anext(stream)
    assert not fleet.router.go.is_set()
    fleet.router.go.set()
    rest = "".join([answer.text async for answer in stream])

    assert first.text
    assert first.text + rest == CLEAN + CLEAN + "end"


async def test_text_after_the_announced_end_is_evaluated_too(fleet: Scene) -> None:
    """The announced end of the text starts an early evaluation and does not end filtering."""
    fleet.router.pieces = ["A short text. ", "!", "...", BAD]
    before = _verdicts()
    seen: list[str] = []
    call = fleet.stub.Generate(pb.GenerateRequest(prompt="hi"))
    reading = asyncio.ensure_future(collect(call, seen))
    async with asyncio.timeout(60):
        while _verdicts() == before:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
    fleet.router.go.set()
    with pytest.raises(aio.AioRpcError) as caught:
        await reading

    assert details_of(caught.value).reason == CONTENT_FILTERED
    assert "A short text. ".startswith("".join(seen))


def _verdicts() -> float:
    labels = {"side": "response", "constraint": "", "action": "allow"}
    return REGISTRY.get_sample_value("bem_safety_verdicts_total", labels) or 0.0


async def test_killed_scorer_blocks_responses_until_it_restarts(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Without scorers nothing is released; the restarted scorers release text again."""
    async with scene(tmp_path, redis_server, scorer_socket=None) as fleet:
        fleet.router.pieces = [CLEAN, CLEAN, "...", CLEAN, CLEAN]
        call = fleet.stub.Generate(pb.GenerateRequest(prompt="hi"))
        stream = aiter(call)
        await anext(stream)
        children = psutil.Process().children()  # not those of the session's scorer server
        scorers = [c for c in children if "bem_fleet.guard.scorer" in " ".join(c.cmdline())]
        for process in scorers:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
        fleet.router.go.set()
        with pytest.raises(aio.AioRpcError) as caught:
            await collect(stream, [])
        stub = health_pb2_grpc.HealthStub(fleet.channel)
        alive = await stub.Check(health_pb2.HealthCheckRequest())
        fleet.router.pieces = [CLEAN]
        answers = await _until_answered(fleet)

        assert len(scorers) == 2
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert alive.status == health_pb2.HealthCheckResponse.SERVING
        assert answers[0].text == CLEAN


async def collect(call: Any, seen: list[str]) -> None:
    """Append the texts of a stream as they arrive."""
    async for answer in call:
        seen.append(answer.text)  # noqa: PERF401 - what arrived before an error counts


async def _until_answered(fleet: Scene) -> list[pb.GenerateResponse]:
    async with asyncio.timeout(240):
        while True:
            await wait_ready(fleet.channel, SERVICE, 200)
            try:
                return await fleet.generate()
            except aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - nothing else


async def test_lost_audit_store_blocks_responses(fleet: Scene, redis_server: RedisServer) -> None:
    """A response that cannot be audited is not released."""
    redis_server.kill()
    with pytest.raises(aio.AioRpcError) as caught:
        await fleet.generate()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert AUDIT_STREAM in (caught.value.details() or "")


async def test_cancellation_reaches_the_mission(fleet: Scene) -> None:
    """A cancelled call is cancelled in the mission too."""
    fleet.router.pieces = [CLEAN, CLEAN, "...", "end"]
    call = fleet.stub.Generate(pb.GenerateRequest(prompt="hi"))
    await call.read()
    call.cancel()

    async with asyncio.timeout(10):
        await fleet.router.cancelled.wait()


def infer(text: bytes) -> oip.ModelInferRequest:
    """Return a request of the Open Inference Protocol that the mission echoes."""
    raw = struct.pack("<I", len(text)) + text
    return oip.ModelInferRequest(model_name="m", raw_input_contents=[raw])


async def test_other_protocols_are_filtered(fleet: Scene) -> None:
    """Unary and bidirectional calls of a protocol without text roles are filtered too."""
    clean = await fleet.inference.ModelInfer(infer(CLEAN.encode()))
    streamed = [a async for a in fleet.inference.ModelStreamInfer(iter([infer(b"one two")] * 2))]
    with pytest.raises(aio.AioRpcError) as caught:
        await fleet.inference.ModelInfer(infer(BAD.encode()))

    assert CLEAN.encode() in clean.raw_output_contents[0]
    assert len(streamed) == 2
    assert details_of(caught.value).reason == CONTENT_FILTERED


async def test_unknown_method_is_unimplemented(fleet: Scene) -> None:
    """The sidecar forwards only methods in the mission's reflection."""
    method: Any = fleet.channel.unary_unary("/some.Other/Method")
    with pytest.raises(aio.AioRpcError) as caught:
        await method(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_broken_utf8_and_long_texts_are_rejected(fleet: Scene) -> None:
    """A malformed or too long request does not reach the mission; the error names the field."""
    raw: Any = fleet.channel.unary_stream(f"/{SERVICE}/Generate")
    with pytest.raises(aio.AioRpcError) as broken:
        await raw(b"\x12\x02\xff\xfe").read()
    with pytest.raises(aio.AioRpcError) as long:
        await fleet.stub.Generate(pb.GenerateRequest(prompt="x" * 200_000)).read()

    assert not fleet.router.metadata
    assert broken.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(broken.value).field == "GenerateRequest"
    assert details_of(long.value).field == "prompt"
    assert "131072" in details_of(long.value).message


@pytest.mark.parametrize("streams", [True, False])
async def test_a_full_mission_is_not_asked_again_at_once(fleet: Scene, streams: bool) -> None:
    """The sidecar repeats its refusal for a moment, with the delay; then it asks again."""
    fleet.router.full_for_s = 5.0
    refusals = []
    for _ in range(20):
        with pytest.raises(aio.AioRpcError) as caught:
            await _ask(fleet, streams)
        refusals.append(details_of(caught.value))
    asked, fleet.router.full_for_s = fleet.router.calls, 0.0
    await asyncio.sleep(HOLD_S)
    await _ask(fleet, streams)

    assert {one.code for one in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert {one.retry_after_s for one in refusals} == {5.0}
    assert asked < len(refusals)
    assert fleet.router.calls == asked + 1


async def _ask(fleet: Scene, streams: bool) -> None:
    request = pb.GenerateRequest(prompt="hi")
    if streams:
        async for _ in fleet.stub.Generate(request):
            pass
    else:
        await fleet.stub.Complete(pb.CompleteRequest(request=request))


async def test_generic_client_lists_and_describes_the_mission(fleet: Scene) -> None:
    """Reflection through the sidecar shows the mission's services and the sidecar's own."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(fleet.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}

    assert {SERVICE, "inference.GRPCInferenceService", "bemfleet.safety.v1.SafetyService"} <= names
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_check_returns_the_verdict_of_a_call(fleet: Scene) -> None:
    """SafetyService.Check returns action, score and threshold, and requires a text."""
    stub: Any = safety_pb2_grpc.SafetyServiceStub(fleet.channel)
    clean = await stub.Check(safety_pb2.CheckRequest(text=CLEAN))
    bad = await stub.Check(safety_pb2.CheckRequest(text=BAD))
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Check(safety_pb2.CheckRequest())

    assert clean.action == safety_pb2.ACTION_ALLOW
    assert bad.action == safety_pb2.ACTION_FILTER
    toxic, calm = ({s.category: s for s in answer.scores}["toxicity"] for answer in (bad, clean))
    assert toxic.violated
    assert toxic.score >= toxic.threshold > calm.score
    assert bad.overall >= toxic.severity * toxic.score - 1e-6
    assert (clean.text, bad.text) == (CLEAN, "")
    assert details_of(caught.value).field == "text"


async def test_request_id_is_forwarded_and_audited(fleet: Scene, redis_server: RedisServer) -> None:
    """The client's request id reaches the mission and the audit record."""
    call = fleet.stub.Generate(
        pb.GenerateRequest(prompt="hi"), metadata=(("x-request-id", "req-42"),)
    )
    assert [answer async for answer in call]

    assert fleet.router.metadata["x-request-id"] == "req-42"
    assert (await audit_of(redis_server))[0]["request_id"] == "req-42"
