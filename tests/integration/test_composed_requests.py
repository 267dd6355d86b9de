"""Requests that name several adapters, through the running router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import aio

from tests.integration.routers import tiny_router

GREEDY = pb.Sampling(temperature=0)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Any]:
    """A running router with two adapters."""
    async with tiny_router(tmp_path) as (_, channel):
        yield rpc.RouterServiceStub(channel)


async def text(router: Any, request: pb.GenerateRequest) -> str:
    """Return the complete text."""
    return "".join([answer.text async for answer in router.Generate(request)])


async def test_adapters_are_composed_in_one_request(router: Any) -> None:
    """Two adapters answer together, streamed and whole alike; one beside the base is itself."""
    beta = pb.ScaledAdapter(name="beta", scale=0.5)
    plain = pb.GenerateRequest(model="alpha", prompt="hi", sampling=GREEDY, max_tokens=20)
    both = pb.GenerateRequest()
    both.CopyFrom(plain)
    both.adapters.append(beta)
    alone = pb.GenerateRequest(prompt="hi", sampling=GREEDY, max_tokens=20)
    alone.adapters.add(name="alpha")
    whole = await router.Complete(pb.CompleteRequest(request=both))
    versions = {
        (await router.Complete(pb.CompleteRequest(request=one))).model_version
        for one in (plain, both, alone)
    }

    assert await text(router, both) == whole.text != await text(router, plain)
    assert await text(router, alone) == await text(router, plain)
    assert whole.model_version in versions
    assert len(versions) == 2


async def test_an_unknown_composed_adapter_is_named(router: Any) -> None:
    """NOT_FOUND names the adapter and those that are loaded."""
    request = pb.GenerateRequest(prompt="x", adapters=[pb.ScaledAdapter(name="nobody")])
    with pytest.raises(aio.AioRpcError, match=r"nobody.*alpha, beta") as caught:
        await text(router, request)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_plan_chooses_its_adapters_itself(router: Any) -> None:
    """INVALID_ARGUMENT names the field and says why none is allowed."""
    adapters = [pb.ScaledAdapter(name="alpha")]
    request = pb.GenerateRequest(model="router", prompt="x", adapters=adapters)
    with pytest.raises(
        aio.AioRpcError, match=r"adapters: 1 adapters .* the plan chooses"
    ) as caught:
        await text(router, request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
