"""Label cardinality: series are bounded by what is served, and not by who asks or for what."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from bem.testing import tiny_backbone
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.testing import RedisServer
from grpc import aio
from prometheus_client import REGISTRY

from tests.integration.routers import tiny_router
from tests.integration.tracks import ask, gateway
from tests.support.random_adapters import write_adapter

USERS, ADAPTERS, AT_ONCE = 1000, 64, 16
ACCEPTED = (201, 429)  # the share of one source is bounded
NAMES = tuple(f"skill-{number}" for number in range(ADAPTERS))
# Of the router and the gateway in one process, beside those of tests before; histograms included.
MOST_SERIES = 1500


def series() -> Counter[str]:
    """Return the number of series of each metric of this process."""
    return Counter(family.name for family in REGISTRY.collect() for _ in family.samples)


async def visit(client: httpx.AsyncClient, number: int) -> None:
    """Do as one user does who has a session, an adapter, an opinion and wrong addresses."""
    user = f"user-{number}"
    answer = await ask(client, user, NAMES[number % ADAPTERS], user=user, max_tokens=1)
    assert answer.status_code == 200, answer.text
    ghost = await ask(client, user, f"ghost-{number}")
    assert ghost.status_code == 404
    await client.get(f"/v1/{user}")
    await client.request(f"VERB{number}", "/v1/models")
    opinion = {"completion_id": answer.json()["id"], "rating": "up", "user": user}
    assert (await client.post("/v1/feedback", json=opinion)).status_code in ACCEPTED


async def visits(client: httpx.AsyncClient, numbers: range) -> None:
    """Let users come, some at once."""
    for first in numbers[::AT_ONCE]:
        group = range(first, min(first + AT_ONCE, numbers.stop))
        await asyncio.gather(*(visit(client, number) for number in group))


async def reload(channel: aio.Channel, folder: Path, versions: range) -> None:
    """Load new versions of one adapter, one after the other."""
    stub: Any = rpc.MissionServiceStub(channel)
    for seed in versions:
        write_adapter(folder / "adapters", tiny_backbone(), NAMES[0], seed=seed)
        await stub.LoadAdapter(pb.LoadAdapterRequest(name=NAMES[0]))


async def test_a_thousand_users_and_64_adapters_add_no_series(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """After the first users the pages stay as long as they are, whatever comes and loads."""
    before = series()
    async with (
        tiny_router(tmp_path, rows=AT_ONCE, queue=64, adapters=NAMES) as (router, channel),
        gateway(redis_server.url, missions={"router": router.address}) as client,
    ):
        await visits(client, range(ADAPTERS))
        await reload(channel, tmp_path, range(1000, 1002))
        few = series()
        await visits(client, range(ADAPTERS, USERS))
        await reload(channel, tmp_path, range(1002, 1012))
        many = series()

    assert many == few
    assert many["bem_router_adapter_resident"] == ADAPTERS + 1  # and the safety adapter
    assert many["vllm:lora_requests_info"] == 1
    assert (many - before).total() < MOST_SERIES
