"""Canaries without a cluster: another adapter, steered by ``fleetctl``, kept in files."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml
from bem_fleet.cli import main
from bem_fleet.operator_key import VARIABLE
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.clients import open_channel
from fleet.files import write_json_atomic
from fleet.testing import RedisServer
from grpc import StatusCode, aio

from tests.integration.orchestrators import Orchestrator, orchestrator
from tests.integration.tracks import (
    BAD,
    EASY,
    SERVICE,
    Script,
    ScriptedMission,
    ask,
    gateway,
    mission,
    socket_of,
)
from tests.integration.validations import validation
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


class Machine:
    """A mission under traffic on a machine without a cluster.

    Attributes:
        process: The orchestrator.
        mission: The mission, with two adapters.
        codes: Status codes of all requests so far.
        texts: Texts of the answers.
    """

    def __init__(self, folder: Path, process: Orchestrator, client: httpx.AsyncClient) -> None:
        self._folder, self.process, self._client = folder, process, client
        self.mission = ScriptedMission({"": Script(), "qa": Script(), "qa-v2": Script()})
        self.codes: list[int] = []
        self.texts: list[str] = []

    async def traffic(self) -> None:
        """Ask for ever, a new session each time."""
        while True:
            answer = await ask(self._client, f"s{len(self.codes)}")
            self.codes.append(answer.status_code)
            self.texts.append(answer.text)

    async def run_canary(self, *words: str) -> int:
        """Run ``fleetctl canary``; returns its exit status."""
        given = ["canary", "--address", self.process.address, *words]
        key_file = {VARIABLE: str(self.process.keys.path("operator"))}
        with mock.patch.dict(os.environ, key_file):
            return await asyncio.to_thread(main, given)

    async def begin(self, **analysis: Any) -> int:
        """Start a canary of the other adapter."""
        file = self._folder / "canary.yaml"
        steps = [{"weight": 10, "seconds": 1}, {"weight": 50, "seconds": 1}]
        given = {"shadow": 100, "steps": steps, "analysis": {**EASY, **analysis}}
        file.write_text(yaml.safe_dump(given))
        return await self.run_canary("start", "router", "--model", "qa-v2", "--spec", str(file))

    async def get_mission(self) -> pb.Mission:
        """Return the mission as the orchestrator has it."""
        async with open_channel(self.process.address) as channel:
            request = pb.GetMissionRequest(name="router")
            stub = rpc.FleetServiceStub(channel)
            key = self.process.keys.metadata("operator")
            answer = await stub.GetMission(request, timeout=30, wait_for_ready=True, metadata=key)
            return answer.mission

    async def phase(self, wanted: str) -> pb.Canary:
        """Return the canary as soon as it is in a phase."""
        return await self.until(lambda canary: canary.phase == wanted)

    async def until(self, look: Callable[[pb.Canary], bool], limit_s: float = 60.0) -> pb.Canary:
        """Return the canary as soon as it is as wanted; another program gives no event.

        An orchestrator that was just killed may still take the connection and close it.
        """
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    canary = (await self.get_mission()).canary
                except aio.AioRpcError as err:
                    if err.code() != StatusCode.UNAVAILABLE:
                        raise
                else:
                    if look(canary):
                        return canary
                await asyncio.sleep(0.05)


@asynccontextmanager
async def machine(redis_server: RedisServer) -> AsyncIterator[Machine]:
    """Run gateway, validation, orchestrator and a mission."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("v", "missions"):
            (folder / name).mkdir()
        spec = {"model": "qa", "grpcService": SERVICE}
        write_json_atomic(
            folder / "missions/router.json", {"metadata": {"name": "router"}, "spec": spec}
        )
        address = socket_of(folder, "router")
        _, judge = await stack.enter_async_context(
            validation(folder / "v", redis_server, missions={"router": address})
        )
        made = stack.enter_context(
            orchestrator(
                folder,
                missions_dir=str(folder / "missions"),
                mission_address=f"unix:{folder}/{{service}}.sock",
                validation_address=judge.address,
                redis_url=redis_server.url,
            )
        )
        client = await stack.enter_async_context(
            gateway(
                redis_server.url,
                missions={"router": address},
                fleet_address=made.address,
                service_key_file=made.keys.path("service"),
            )
        )
        one = Machine(folder, made, client)
        await stack.enter_async_context(mission(address, one.mission))
        await one.get_mission()
        traffic = asyncio.create_task(one.traffic())
        try:
            yield one
        finally:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)


@pytest.mark.parametrize(("script", "reason"), BAD.values(), ids=BAD)
async def test_a_bad_adapter_rolls_itself_back(
    redis_server: RedisServer, script: Script, reason: str
) -> None:
    """Whatever is bad about it, it is taken back, and no request has failed because of it."""
    async with machine(redis_server) as one:
        one.mission.scripts["qa-v2"] = script
        margin = EASY["qualityMargin"] if reason == "quality is worse" else 0.9
        started = await one.begin(qualityMargin=margin)
        ended = await one.phase("RolledBack")

    assert started == 0
    assert reason in ended.reason
    assert ended.weight == 0
    assert set(one.codes) == {200}
    assert not any("content_filter" in text for text in one.texts)


async def test_a_promoted_adapter_answers_after_a_crash(redis_server: RedisServer) -> None:
    """A good one is promoted by itself; killed twice meanwhile, the orchestrator goes on."""
    async with machine(redis_server) as one:
        one.mission.scripts["qa-v2"] = Script(text="right indeed")
        await one.begin(qualityMargin=0.5)
        await one.phase("Canary")
        one.process.end()
        one.process.start()
        await one.phase("Promoted")
        one.process.end()
        one.process.start()
        seen = await one.get_mission()
        before = len(one.texts)
        await eventually(lambda: len(one.texts) > before + 20, 90)

    assert seen.canary.phase == "Promoted"
    assert all("right indeed" in text for text in one.texts[-10:])
    assert set(one.codes) == {200}


async def test_people_steer_by_command(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pause holds, abort ends at once; what cannot be is refused with the reason."""
    async with machine(redis_server) as one:
        early = await one.run_canary("abort", "router")
        await one.begin(maxPairs=200_000, errorMargin=0.001)
        await one.phase("Canary")
        second = await one.begin()
        paused = await one.run_canary("pause", "router")
        await one.until(lambda canary: canary.paused)
        shown = await one.run_canary("status", "router")
        aborted = await one.run_canary("abort", "router")
        ended = await one.phase("RolledBack")
        again = await one.begin()
        image = await one.run_canary("start", "router", "--image", "registry.local/mission:2")
        unknown = await one.run_canary("start", "other", "--model", "qa-v2")
    captured = capsys.readouterr()
    printed = captured.out + captured.err

    assert (early, second, again, image, unknown) == (1, 1, 1, 1, 1)
    assert (paused, shown, aborted) == (0, 0, 0)
    assert ended.reason == "aborted by a person"
    for words in (
        "FAILED_PRECONDITION: mission default/router has no canary in progress",
        "FAILED_PRECONDITION: mission default/router already has a canary in progress (Canary)",
        "Canary (paused)",
        "raise attempt to try it again",
        "INVALID_ARGUMENT: spec.canary: set model; an image",
        "NOT_FOUND: there is no mission 'default/other'",
    ):
        assert words in printed
