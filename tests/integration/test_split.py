"""Canary split of the gateway between two missions: exact, sticky, with fallback to stable."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from bemfleet.canary.v1 import canary_pb2
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.server import App, start
from fleet.settings import FleetSettings
from fleet.testing import RedisServer
from fleet.wire import PAIR_VERSION

from tests.integration.tracks import (
    Script,
    ScriptedMission,
    ask,
    gateway,
    mission,
    socket_of,
)
from tests.support.waiting import eventually

FLEET = pb.DESCRIPTOR.services_by_name["FleetService"].full_name
ID = "default/router/abc"


class Routes(rpc.FleetServiceServicer):
    """Route source that streams the table set by the test, as the orchestrator does."""

    def __init__(self) -> None:
        self.table = pb.WatchRoutesResponse()
        self.changed = asyncio.Event()

    async def WatchRoutes(  # noqa: N802 - the name is the proto's
        self,
        request: Any,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        """Send the table now and at every change."""
        while True:
            self.changed.clear()
            yield self.table
            await self.changed.wait()


class Fleet:
    """Two scripted missions, their routes, and a client of the gateway in front of them."""

    def __init__(self, folder: Path, routes: Routes, client: httpx.AsyncClient) -> None:
        self.folder, self.client = folder, client
        self.stable, self.canary = ScriptedMission(), ScriptedMission()
        self._routes = routes

    async def split(self, weight: int, mirror: int = 0, canary_id: str = ID) -> None:
        """Set the split and wait until the gateway has applied it."""
        target = pb.Target(address=socket_of(self.folder, "router-canary"))
        self._routes.table = pb.WatchRoutesResponse(
            routes=[
                pb.Route(
                    mission="router",
                    canary=target,
                    weight=weight,
                    mirror=mirror,
                    canary_id=canary_id,
                )
            ]
        )
        self._routes.changed.set()
        wanted = f'bem_gateway_canary_weight_percent{{mission="router"}} {float(weight)}'
        text = ""
        async with asyncio.timeout(10):
            while wanted not in text:
                text = (await self.client.get("/metrics")).text


@pytest.fixture
async def fleet(redis_server: RedisServer) -> AsyncIterator[Fleet]:
    """A gateway in front of two scripted missions, and the source of its routes."""
    routes = Routes()  # type: ignore[abstract]

    async def build(_settings: FleetSettings, app: App) -> None:
        rpc.add_FleetServiceServicer_to_server(routes, app.server)
        await app.register_service(FLEET)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = FleetSettings(address=socket_of(folder, "fleet"), drain_s=0)
        running = await start(where, build, {})
        async with gateway(
            redis_server.url,
            missions={"router": socket_of(folder, "router")},
            fleet_address=running.address,
        ) as client:
            made = Fleet(folder, routes, client)
            async with (
                mission(socket_of(folder, "router"), made.stable),
                mission(socket_of(folder, "router-canary"), made.canary),
            ):
                yield made
        await running.stop()


async def test_a_weight_of_ten_is_ten_percent_of_sessions(fleet: Fleet) -> None:
    """Of 2,000 sessions the canary answers 10 % within three standard errors, and keeps them."""
    fleet.stable.scripts[""].delay_s = fleet.canary.scripts[""].delay_s = 0
    await fleet.split(10)
    limit = asyncio.Semaphore(16)

    async def one(session: str) -> str:
        async with limit:
            answer = await ask(fleet.client, session)
        assert answer.status_code == 200
        return answer.headers["x-bem-track"]

    first = await asyncio.gather(*(one(f"s{i}") for i in range(2000)))
    again = await asyncio.gather(*(one(f"s{i}") for i in range(200)))

    canaries = first.count("canary")
    assert abs(canaries - 200) <= 3 * (2000 * 0.1 * 0.9) ** 0.5
    assert fleet.canary.asked.total() + fleet.stable.asked.total() == 2200
    assert again == first[:200]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [Script(fail_every=1), Script(withhold_every=1)])
async def test_stable_answers_when_the_canary_fails_before_its_first_text(
    fleet: Fleet,
    script: Script,
    stream: bool,
) -> None:
    """A canary that fails or withholds before its first text is replaced by stable."""
    fleet.canary.scripts[""] = script
    await fleet.split(100)
    answers = [await ask(fleet.client, f"s{i}", stream=stream) for i in range(20)]

    assert [one.status_code for one in answers] == [200] * 20
    assert all("right" in one.text for one in answers)
    assert not any("content_filter" in one.text for one in answers)
    assert fleet.canary.asked.total() == fleet.stable.asked.total() == 20


async def test_a_stream_that_has_begun_is_not_mixed(fleet: Fleet) -> None:
    """After its first text a broken canary ends the answer; text of stable never follows it."""
    fleet.canary.scripts[""] = Script(text="one two three", break_after=1)
    await fleet.split(100)
    answer = await ask(fleet.client, "s", stream=True)

    assert "one " in answer.text
    assert "right" not in answer.text
    assert '"error"' in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_mirror_asks_both_and_answers_by_one(
    fleet: Fleet,
    redis_server: RedisServer,
    stream: bool,
) -> None:
    """Mirrored answers are discarded; each pair is in the canary's stream, without any text."""
    fleet.canary.scripts[""] = Script(text="wrong", fail_every=2)
    await fleet.split(0, mirror=100)
    answers = [await ask(fleet.client, f"s{i}", stream=stream) for i in range(10)]
    pairs = await _pairs(redis_server, 10)

    assert all("right" in one.text for one in answers)
    assert sum(pair.canary.failed for pair in pairs) == 5
    assert not any(pair.stable.failed or pair.stable.withheld for pair in pairs)
    assert {pair.version for pair in pairs} == {PAIR_VERSION}
    assert all(pair.stable.latency_s > 0 for pair in pairs)


async def test_a_request_without_a_session_is_drawn_anew(fleet: Fleet) -> None:
    """Without a session id the request id decides, so that both tracks answer some requests."""
    await fleet.split(50)
    tracks = {(await ask(fleet.client)).headers["x-bem-track"] for _ in range(40)}

    assert tracks == {"stable", "canary"}


async def test_canaries_that_ended_leave_no_connection_behind(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    """Ten canaries, one after the other, cost as many Redis connections as one."""
    counts = []
    with redis.from_url(redis_server.url) as client:
        for number in range(10):
            await fleet.split(number + 1, mirror=100, canary_id=f"default/router/{number}")
            await ask(fleet.client, "s")
            await _pairs(redis_server, 1, f"default/router/{number}")
            counts.append(len(client.client_list()))

    assert max(counts) <= counts[0] + 2  # clients of this test come and go


async def _pairs(
    redis_server: RedisServer, count: int, canary_id: str = ID
) -> list[canary_pb2.PairObservation]:
    """Return the pairs in a canary's stream once there are ``count`` of them."""
    pairs: list[canary_pb2.PairObservation] = []
    with redis.from_url(redis_server.url) as client:

        def enough() -> bool:
            entries: Any = client.xrange(f"bem:canary:{canary_id}")
            assert all(set(fields) == {b"pair"} for _, fields in entries)
            pairs[:] = [
                canary_pb2.PairObservation.FromString(fields[b"pair"]) for _, fields in entries
            ]
            return len(pairs) >= count

        await eventually(enough, 90)
    return pairs
