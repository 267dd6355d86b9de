"""Choices of a completion from the router's messages; requests are in test_openai_schema."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from bem_fleet.services.gateway.generation import ChoiceDelta, stream_choices
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import DeniedError, to_status
from grpc import aio
from grpc_status import rpc_status


def denied() -> aio.AioRpcError:
    """Return the sidecar's error for a withheld answer."""
    metadata = {"side": "request", "category": "harm", "score": "0.9"}
    err = DeniedError("withheld", "CONTENT_FILTERED", metadata)
    status = rpc_status.to_status(to_status(err, {}))
    trailing = aio.Metadata(*status.trailing_metadata)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


class Stub:
    """Answers each stream with a text and an end, or an error."""

    def __init__(self, failure: grpc.RpcError | None = None) -> None:
        self.failure, self.closed = failure, 0

    async def stable_unary(self, path: str, _request: bytes, **_: Any) -> bytes:
        """Count the tokens of a blocked request."""
        assert path.endswith("/CountTokens")
        usage = pb.Usage(prompt_tokens=7)
        return pb.CountTokensResponse(usage=usage, model_version="v").SerializeToString()

    async def stream(self, _path: str, request: bytes, **_: Any) -> AsyncGenerator[bytes]:
        """Yield the seed as text, then the end."""
        try:
            seed = pb.GenerateRequest.FromString(request).sampling.seed
            yield pb.GenerateResponse(text=str(seed)).SerializeToString()
            if self.failure:
                raise self.failure
            yield pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP).SerializeToString()
            raise AssertionError("read beyond the end of the text")
        finally:
            self.closed += 1


def requests(count: int) -> list[pb.GenerateRequest]:
    """Return requests with different seeds."""
    return [pb.GenerateRequest(sampling=pb.Sampling(seed=seed)) for seed in range(count)]


async def collect(stub: Any, count: int, concurrency: int = 16) -> list[ChoiceDelta]:
    """Return all deltas of a streamed completion."""
    deltas = stream_choices(stub, requests(count), 5.0, concurrency=concurrency)
    return [delta async for delta in deltas]


@pytest.mark.parametrize("count", [1, 3])
async def test_each_choice_has_its_text_and_its_end(count: int) -> None:
    """Choices arrive in any order, each with its index; every call is closed."""
    stub = Stub()
    deltas = await collect(stub, count)

    texts = {delta.index: delta.output.text for delta in deltas if delta.output.text}
    assert texts == {index: str(index) for index in range(count)}
    assert sum(delta.finish_reason == "stop" for delta in deltas) == count
    assert stub.closed == count


class FullStub(Stub):
    """Runs two streams at once; a third one is refused before its first delta."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.refused = 0

    async def stream(self, _path: str, request: bytes, **options: Any) -> AsyncGenerator[bytes]:
        """Yield the seed as text, then the end, or refuse."""
        if self.running == 2:
            self.refused += 1
            raise aio.AioRpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, aio.Metadata(), aio.Metadata()
            )
        self.running += 1
        try:
            async for response in super().stream(_path, request, **options):
                await asyncio.sleep(0.001)
                yield response
        finally:
            self.running -= 1


async def test_choices_beyond_the_missions_capacity_wait_for_others() -> None:
    """Each choice comes once and complete, although most were refused at first."""
    stub = FullStub()
    deltas = await collect(stub, 12, concurrency=6)
    texts = [delta.output.text for delta in deltas if delta.output.text]

    assert stub.refused > 0
    assert sorted(texts, key=int) == [str(index) for index in range(12)]


@pytest.mark.parametrize("count", [1, 3])
async def test_withheld_choice_ends_with_content_filter(count: int) -> None:
    """What the sidecar withholds is the end of a choice, not an error."""
    deltas = await collect(Stub(denied()), count)

    withheld = [delta for delta in deltas if delta.withheld]
    assert [delta.finish_reason for delta in withheld] == ["content_filter"] * count
    assert {delta.withheld.category for delta in withheld if delta.withheld} == {"harm"}
    assert [delta.output.usage.prompt_tokens for delta in withheld] == [7] * count
    assert {delta.output.model_version for delta in withheld} == {"v"}


@pytest.mark.parametrize("count", [1, 3])
async def test_other_errors_end_the_stream(count: int) -> None:
    """One failed choice fails the completion."""
    failure = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata())
    with pytest.raises(grpc.RpcError):
        await collect(Stub(failure), count)
