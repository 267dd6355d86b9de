"""Streams that are refused while their client still writes: the client sees the servicer's error.

A client whose write fails first reports INTERNAL, now and then. So each call is repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import pytest
from bemfleet.memory.v1 import memory_pb2
from bemfleet.validation.v1 import validation_pb2
from fleet.errors import details_of
from fleet.request_streams import MAX_SECONDS
from fleet.testing import RedisServer
from grpc import aio
from inference import open_inference_pb2 as oip

from tests.integration.memories import ACME, memory, messages
from tests.integration.sidecars import REFUSED, scene
from tests.integration.validations import gate, validation
from tests.support.access_keys import write_access_keys

ROUNDS, AT_ONCE, PARTS = 20, 4, 60
BYTES = 32_000
INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def refusals(call: Callable[[], Any]) -> set[tuple[grpc.StatusCode, str | None]]:
    """Return codes and fields of the errors of many calls, several at once."""
    seen = set()
    for _ in range(ROUNDS):
        for error in await asyncio.gather(*(refusal(call()) for _ in range(AT_ONCE))):
            seen.add((error.code, error.field))
    return seen


async def refusal(call: Any) -> Any:
    """Return the error that a call ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        [one async for one in call] if hasattr(call, "__aiter__") else await call
    return details_of(caught.value)


async def test_refused_document_and_snapshot_are_told(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Ingest names the wrong session, Restore the missing one, and a wrong key is refused."""
    keys = write_access_keys(tmp_path / "keys", {"name": "web", "tenant": "acme"})
    wrong = (("authorization", "Bearer none-of-ours"),)
    parts = [memory_pb2.RestoreRequest(content=b"x" * BYTES)] * PARTS
    settings = {"address": "127.0.0.1:0", "keys_file": keys.file}
    async with memory(tmp_path, redis_server, **settings) as (stub, _):
        own, texts = keys.metadata("web"), ["x" * BYTES] * PARTS
        ingested = await refusals(
            lambda: stub.Ingest(messages("a:b", "book", *texts), metadata=own)
        )
        restored = await refusals(lambda: stub.Restore(iter(parts), metadata=own))
        strange = await refusals(lambda: stub.Restore(iter(parts), metadata=wrong))

    assert ingested == restored == {(INVALID, "session")}
    assert strange == {(grpc.StatusCode.UNAUTHENTICATED, None)}


async def test_refused_scores_are_told(tmp_path: Path, redis_server: RedisServer) -> None:
    """The streams of validation name the unknown gate and the wrong scores."""
    chunk = validation_pb2.ScoreChunk(metric="f1", values=[0.5] * (BYTES // 8))
    head = validation_pb2.GateStreamHead(gate=gate("g1", gate_id="Z.luck").head)
    gated = [validation_pb2.GateStreamRequest(head=head)]
    gated += [validation_pb2.GateStreamRequest(chunk=chunk)] * PARTS
    compared = [validation_pb2.CompareStreamRequest(chunk=chunk)] * PARTS
    async with validation(tmp_path, redis_server) as (stub, _):
        gates = await refusals(lambda: stub.GateStream(iter(gated)))
        comparisons = await refusals(lambda: stub.CompareStream(iter(compared)))

    assert gates == {(INVALID, "gate_id")}
    assert comparisons == {(INVALID, "head")}


async def test_missions_refusal_passes_the_sidecar(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """The sidecar, which relays raw messages, ends the client's call as the mission ended its."""
    tensor = oip.ModelInferRequest.InferInputTensor(
        contents=oip.InferTensorContents(fp32_contents=[0.5] * (BYTES // 4))
    )
    requests = [oip.ModelInferRequest(model_name=REFUSED, inputs=[tensor])] * PARTS
    async with scene(tmp_path, redis_server) as fleet:
        seen = await refusals(lambda: fleet.inference.ModelStreamInfer(iter(requests)))

    assert seen == {(INVALID, "model_name")}


async def test_endless_stream_is_cut_off(tmp_path: Path, redis_server: RedisServer) -> None:
    """Nobody keeps a refused call open by writing for ever."""

    async def endless() -> AsyncIterator[memory_pb2.RestoreRequest]:
        for part in repeat(memory_pb2.RestoreRequest(content=b"x")):
            yield part
            await asyncio.sleep(0.01)

    async with memory(tmp_path, redis_server) as (stub, _):
        began = time.monotonic()
        await refusal(stub.Restore(endless(), metadata=ACME))

    assert time.monotonic() - began < MAX_SECONDS + 5
