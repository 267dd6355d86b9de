"""The router over its unix socket: outputs, limits, adapters, cancellation, two protocols."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem.testing import tiny_backbone
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from fleet.errors import details_of
from grpc import aio
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc as oip_rpc

from tests.integration.routers import tiny_router
from tests.support.random_adapters import write_adapter

GREEDY = pb.Sampling(temperature=0)


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[aio.Channel]:
    """A channel to a running router."""
    async with tiny_router(tmp_path) as (_, opened):
        yield opened


@pytest.fixture
def router(channel: aio.Channel) -> Any:
    """Its own protocol."""
    return rpc.RouterServiceStub(channel)


@pytest.fixture
def contract(channel: aio.Channel) -> Any:
    """The mission contract."""
    return mission_pb2_grpc.MissionServiceStub(channel)


def chat(*contents: str, role: str = "user") -> pb.ChatPrompt:
    """A conversation of one role."""
    return pb.ChatPrompt(messages=[pb.ChatMessage(role=role, content=c) for c in contents])


async def text(router: Any, request: pb.GenerateRequest) -> str:
    """Return the complete text."""
    return "".join([answer.text async for answer in router.Generate(request)])


async def test_answer_streams_and_ends_with_usage(router: Any) -> None:
    """The first response names the version, the last one the reason and the tokens."""
    request = pb.GenerateRequest(prompt="hello", sampling=GREEDY, max_tokens=12)
    answers = [answer async for answer in router.Generate(request)]

    assert len(answers) > 1
    assert answers[0].model_version
    assert answers[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert (answers[-1].usage.prompt_tokens, answers[-1].usage.completion_tokens) == (5, 12)


async def test_whole_answer_equals_the_streamed_one(router: Any) -> None:
    """Complete gives the stream's text, reason, usage and version in one message."""
    request = pb.GenerateRequest(prompt="hello", sampling=GREEDY, max_tokens=12, model="alpha")
    answers = [answer async for answer in router.Generate(request)]
    whole = await router.Complete(pb.CompleteRequest(request=request))

    assert whole.text == "".join(answer.text for answer in answers)
    assert whole.usage == answers[-1].usage
    assert whole.finish_reason == answers[-1].finish_reason
    assert whole.model_version == answers[0].model_version


async def test_adapter_answers_differently_and_is_listed(router: Any, contract: Any) -> None:
    """An adapter is a model of its own name."""
    base = pb.GenerateRequest(chat=chat("hi"), sampling=GREEDY, max_tokens=20)
    adapted = pb.GenerateRequest(model="alpha", chat=chat("hi"), sampling=GREEDY, max_tokens=20)
    listed = await contract.ListAdapters(mission_pb2.ListAdaptersRequest())

    assert await text(router, base) != await text(router, adapted)
    assert [(s.name, s.base, s.rank) for s in listed.adapters] == [
        ("tiny", True, 0),
        ("alpha", False, 4),
        ("beta", False, 4),
    ]
    assert listed.context_tokens == 512


WRONG = {
    "empty prompt": (pb.GenerateRequest(prompt=""), "prompt", "empty"),
    "no input": (pb.GenerateRequest(), "prompt", "empty"),
    "prompt beyond context": (pb.GenerateRequest(prompt="x" * 600), "prompt", "512"),
    "huge prompt": (pb.GenerateRequest(prompt="x" * 2_000_000), "prompt", "at least"),
    "no messages": (pb.GenerateRequest(chat=pb.ChatPrompt()), "chat.messages", "256"),
    "too many messages": (pb.GenerateRequest(chat=chat(*"x" * 257)), "chat.messages", "257"),
    "unknown role": (
        pb.GenerateRequest(chat=chat("x", role="robot")),
        "chat.messages[0].role",
        "robot",
    ),
    "no text": (pb.GenerateRequest(chat=chat("", "")), "chat.messages", "no message has text"),
    "no tokens wanted": (pb.GenerateRequest(prompt="x", max_tokens=0), "max_tokens", "at least 1"),
    "too many tokens": (pb.GenerateRequest(prompt="x", max_tokens=512), "max_tokens", "512"),
    "nan": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(temperature=math.nan)),
        "sampling.temperature",
        "nan",
    ),
    "hot": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(temperature=2.5)),
        "sampling.temperature",
        "[0, 2]",
    ),
    "no nucleus": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(top_p=-0.5)),
        "sampling.top_p",
        "[0, 1]",
    ),
    "top_k": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(top_k=-2)),
        "sampling.top_k",
        "at least -1",
    ),
    "penalty": (
        pb.GenerateRequest(prompt="x", sampling=pb.Sampling(presence_penalty=math.inf)),
        "sampling.presence_penalty",
        "inf",
    ),
    "five stops": (pb.GenerateRequest(prompt="x", stop=list("abcde")), "stop", "at most 4"),
    "empty stop": (pb.GenerateRequest(prompt="x", stop=[""]), "stop", "1 to 64"),
    "scale": (pb.GenerateRequest(prompt="x", adapter_scale=3), "adapter_scale", "[0, 2]"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_field_is_named_with_its_limit(router: Any, case: str) -> None:
    """Each limit is an INVALID_ARGUMENT that names field and limit."""
    request, field, part = WRONG[case]
    with pytest.raises(aio.AioRpcError) as caught:
        await text(router, request)
    found = details_of(caught.value)

    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert part in found.message


async def test_unknown_model_is_not_found(router: Any) -> None:
    """The error lists the loaded models."""
    with pytest.raises(aio.AioRpcError) as caught:
        await text(router, pb.GenerateRequest(model="gpt", prompt="x"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "tiny, alpha, beta" in (caught.value.details() or "")


async def test_adapter_unloads_and_loads_again(router: Any, contract: Any) -> None:
    """Adapters come and go at run time; names that are paths never reach the disk."""
    await contract.UnloadAdapter(mission_pb2.UnloadAdapterRequest(name="beta"))
    with pytest.raises(aio.AioRpcError) as gone:
        await text(router, pb.GenerateRequest(model="beta", prompt="x"))
    await contract.LoadAdapter(mission_pb2.LoadAdapterRequest(name="beta"))
    asked = pb.GenerateRequest(model="beta", prompt="x", max_tokens=5, sampling=GREEDY)
    answer = await text(router, asked)
    codes = []
    for name in ("../alpha", "", "nobody"):
        with pytest.raises(aio.AioRpcError) as caught:
            await contract.LoadAdapter(mission_pb2.LoadAdapterRequest(name=name))
        codes.append(caught.value.code())

    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    assert answer
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert codes == [invalid, invalid, grpc.StatusCode.NOT_FOUND]


async def test_bad_adapters_leave_base_and_good_ones_serving(tmp_path: Path) -> None:
    """A bad folder at the start, and a bad load at run time, are refused, listed and harmless."""
    folder = tmp_path / "adapters"
    write_adapter(folder, tiny_backbone(), "broken", seed=5)
    (folder / "broken" / "adapter.safetensors").write_bytes(b"no tensors")
    async with tiny_router(tmp_path) as (_, channel):
        contract: Any = mission_pb2_grpc.MissionServiceStub(channel)
        router: Any = rpc.RouterServiceStub(channel)
        write_adapter(folder, tiny_backbone(), "edited", seed=6)
        card = folder / "edited" / "card.json"
        card.write_text(card.read_text().replace('"scale": 1.0', '"scale": 1e99'))
        (folder / "linked").symlink_to(folder / "alpha")
        codes = []
        for name in ("broken", "edited", "linked"):
            with pytest.raises(aio.AioRpcError) as caught:
                await contract.LoadAdapter(mission_pb2.LoadAdapterRequest(name=name))
            codes.append(caught.value.code())
        listed = await contract.ListAdapters(mission_pb2.ListAdaptersRequest())
        asked = [
            pb.GenerateRequest(model=model, prompt="hello", max_tokens=6, sampling=GREEDY)
            for model in ("", "alpha", "beta")
        ]
        answers = [await text(router, one) for one in asked]

    reasons = {one.name: one.reason for one in listed.rejected}
    assert set(codes) == {grpc.StatusCode.FAILED_PRECONDITION}
    assert [one.name for one in listed.adapters] == ["tiny", "alpha", "beta"]
    assert "SHA-256" in reasons["broken"]
    assert "scale: 1e+99" in reasons["edited"]
    assert "is a link" in reasons["linked"]
    assert all(answers)


async def test_deadline_and_cancellation_free_the_row(tmp_path: Path) -> None:
    """A client that goes away or is out of time leaves its row to the next one."""
    long = pb.GenerateRequest(prompt="abc abc", sampling=GREEDY, max_tokens=500)
    async with tiny_router(tmp_path, rows=1) as (_, channel):
        router: Any = rpc.RouterServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as late:
            await asyncio.gather(*[_read(router.Generate(long, timeout=0.05))])
        call = router.Generate(long)
        await call.read()
        call.cancel()
        answer = await text(router, pb.GenerateRequest(prompt="y", sampling=GREEDY, max_tokens=3))

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert answer


async def _read(call: Any) -> list[Any]:
    return [answer async for answer in call]


async def test_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    """Beyond rows and queue a request is refused at once, with a retry delay."""
    long = pb.GenerateRequest(prompt="abc abc", sampling=GREEDY, max_tokens=500)
    async with tiny_router(tmp_path, rows=1, queue=1) as (_, channel):
        router: Any = rpc.RouterServiceStub(channel)
        running = router.Generate(long)
        await running.read()
        waiting = router.Generate(long)
        reading = asyncio.create_task(waiting.read())
        refused = None
        while refused is None:  # until the second has reached the queue
            third = router.Generate(long, timeout=5)
            try:
                async with asyncio.timeout(0.3):
                    await third.read()
            except aio.AioRpcError as err:
                refused = details_of(err)
            except TimeoutError:
                third.cancel()
        running.cancel()
        await reading
        waiting.cancel()

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after_s is not None
    assert refused.retry_after_s >= 0.5


async def test_call_in_flight_finishes_when_the_service_drains(tmp_path: Path) -> None:
    """SIGTERM's path lets an accepted answer end."""
    async with tiny_router(tmp_path) as (running, channel):
        router: Any = rpc.RouterServiceStub(channel)
        call = router.Generate(pb.GenerateRequest(prompt="x", sampling=GREEDY, max_tokens=100))
        stream = aiter(call)
        await anext(stream)
        stopping = asyncio.create_task(running.stop())
        answers = [answer async for answer in stream]
        await stopping

    assert answers[-1].finish_reason != pb.FINISH_REASON_UNSPECIFIED


async def test_version_is_the_one_that_served_a_queued_request(tmp_path: Path) -> None:
    """An adapter that is reloaded while a request waits serves it, and the response says so."""
    busy = pb.GenerateRequest(prompt="abc abc", sampling=GREEDY, max_tokens=500)
    waits = pb.GenerateRequest(model="alpha", prompt="x", sampling=GREEDY, max_tokens=2)
    async with tiny_router(tmp_path, rows=1) as (_, channel):
        router: Any = rpc.RouterServiceStub(channel)
        contract: Any = mission_pb2_grpc.MissionServiceStub(channel)
        # One alone may end before the adapter is loaded.
        running = [router.Generate(busy) for _ in range(5)]
        await running[0].read()
        queued: list[asyncio.Task[Any]] = [asyncio.create_task(_read(router.Generate(waits)))]
        queued.append(asyncio.create_task(_complete(router, waits)))
        queued.append(asyncio.create_task(_infer_version(channel)))
        probe = mission_pb2.ProbeRequest(model="alpha", prompt="x", max_tokens=2)
        queued.append(asyncio.create_task(_probe_version(contract, probe)))
        await asyncio.sleep(0.5)  # all four are parsed and wait for the one slot
        write_adapter(tmp_path / "adapters", tiny_backbone(), "alpha", seed=99)
        load = mission_pb2.LoadAdapterRequest(name="alpha")
        loaded = (await contract.LoadAdapter(load)).adapter.version
        for call in running:
            call.cancel()
        streamed, *others = await asyncio.gather(*queued)

    served = {one.partition("+")[2] for one in (streamed[0].model_version, *others)}
    assert served == {loaded[:12]}
    assert not streamed[-1].model_version or len(streamed) == 1


async def _complete(router: Any, request: pb.GenerateRequest) -> str:
    whole = await router.Complete(pb.CompleteRequest(request=request))
    return str(whole.model_version)


async def _infer_version(channel: aio.Channel) -> str:
    stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
    request = infer("alpha", b"x", temperature=0.0, max_tokens=2)
    return str((await stub.ModelInfer(request)).model_version)


async def _probe_version(contract: Any, request: mission_pb2.ProbeRequest) -> str:
    return str((await contract.Probe(request)).model_version)


def infer(model: str, *texts: bytes, **parameters: Any) -> oip.ModelInferRequest:
    """A request of the Open Inference Protocol with raw contents."""
    request = oip.ModelInferRequest(model_name=model, id="7")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[len(texts)])
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(t)) + t for t in texts))
    for name, value in parameters.items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


async def test_open_inference_answers_a_batch_as_generate_does(
    channel: aio.Channel, router: Any
) -> None:
    """Raw and plain BYTES contents give the same texts as the router's own protocol."""
    stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
    request = infer("alpha", b"one", b"two", temperature=0.0, max_tokens=8)
    raw = (await stub.ModelInfer(request)).raw_output_contents[0]
    plain = oip.ModelInferRequest()
    plain.CopyFrom(request)
    plain.ClearField("raw_input_contents")
    plain.inputs[0].contents.bytes_contents.extend([b"one", b"two"])
    parts = (await stub.ModelInfer(plain)).outputs[0].contents.bytes_contents
    own = [
        await text(
            router, pb.GenerateRequest(model="alpha", prompt=t, sampling=GREEDY, max_tokens=8)
        )
        for t in ("one", "two")
    ]

    assert [part.decode() for part in parts] == own
    assert raw == b"".join(struct.pack("<I", len(part)) + part for part in parts)


async def test_open_inference_describes_itself(channel: aio.Channel) -> None:
    """Liveness, readiness and metadata answer for base and adapters."""
    stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
    metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="beta"))
    ready = [
        (await stub.ModelReady(oip.ModelReadyRequest(name=name))).ready for name in ("tiny", "no")
    ]

    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert (await stub.ServerMetadata(oip.ServerMetadataRequest())).name == "bem-fleet-router"
    assert [(t.name, t.datatype) for t in metadata.inputs] == [("text_input", "BYTES")]
    assert ready == [True, False]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (oip.ModelInferRequest(model_name="tiny"), "inputs"),
        (infer("tiny", b"\xff\xfe"), "inputs[0]"),
        (infer("tiny", b"x", colour="red"), "parameters['colour']"),
        (infer("tiny", b"x", max_tokens="many"), "parameters['max_tokens']"),
        (infer("tiny", b"x", max_tokens=0), "parameters['max_tokens']"),
        (infer("tiny"), "inputs[0].shape"),
    ],
)
async def test_open_inference_names_what_is_wrong(
    channel: aio.Channel, request_: oip.ModelInferRequest, field: str
) -> None:
    """Bad tensors and parameters are INVALID_ARGUMENT; a stream goes on after them."""
    stub: Any = oip_rpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request_)
    answers = await _read(
        stub.ModelStreamInfer(iter([request_, infer("tiny", b"x", max_tokens=2)]))
    )

    assert details_of(caught.value).code is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value).field == field
    assert answers[0].error_message
    assert answers[0].infer_response.id == request_.id
    assert answers[1].infer_response.raw_output_contents
