"""A canary whose gateway, validation and orchestrator restart has the verdict of one that ran on.

The gateway's observer writes the pairs, validation judges them over gRPC, and the orchestrator's
runner polls it, all on one real Redis. A restart replaces each of them by a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis
from bem_fleet.services.gateway.canary_observations import CanaryObserver, RequestOutcome
from bem_fleet.services.orchestrator.canary.status import GateStatus
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.routes import canary_id
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.testing import RedisServer

from tests.integration.validations import validation
from tests.unit.services.orchestrator.missions import SCHEMA, canary_spec, mission

pytestmark = pytest.mark.slow
Pair = tuple[RequestOutcome, RequestOutcome]


class Fleet:
    """Gateway observer, validation and orchestrator's runner of one canary.

    Attributes:
        gates: Result of the analysis after each part of the pairs.
    """

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self._folder, self._server = folder, server
        (folder / "missions").mkdir(parents=True)
        # The runner is asked about the mission itself, so that each poll follows its pairs.
        self._files = MissionFiles(folder / "missions", SCHEMA, "here")
        self._mission = _mission()
        self._stack = AsyncExitStack()
        self.gates: list[GateStatus | None] = []

    async def start(self) -> None:
        """Start the three; they know nothing but what Redis and the mission's file hold."""
        self._observer = CanaryObserver(self._server.url)
        _, judge = await self._stack.enter_async_context(validation(self._folder, self._server))
        settings = OrchestratorSettings(
            validation_address=judge.address, mission_address="unix:/nowhere"
        )
        self._runner = CanaryAnalysisRunner(settings, self._files, lambda: None)

    async def stop(self) -> None:
        """Stop the three."""
        await self._observer.close()
        await self._runner.close()
        await self._stack.aclose()

    async def judge(self, pairs: Sequence[Pair]) -> None:
        """Record pairs, of which the last are still unwritten when the gateway ends, and poll."""
        for stable, canary in pairs:
            self._observer.record_pair(canary_id(self._mission), stable, canary)
        await self._observer.close()
        self._observer = CanaryObserver(self._server.url)
        await self._runner._poll(self._mission)
        self.gates.append(self._runner.latest_gate(self._mission))


def _mission() -> Mission:
    """Return a mission whose canary is an image."""
    canary = {"image": "mission:2"}
    state = {"id": canary_spec(**canary).id, "phase": "Canary", "image": "mission:2", "weight": 5}
    return mission("anything", {"canary": state}, canary=canary)


def _pairs(count: int, slower: float, start: int) -> list[Pair]:
    """Return pairs with some spread, the same for the same indices."""
    spread = [1 + 0.1 * ((7 * index) % 11 - 5) / 5 for index in range(start, start + count)]
    return [(RequestOutcome(0.1), RequestOutcome(0.1 * slower * one)) for one in spread]


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        (((200, 1.9), (800, 0.6)), "rollback"),
        (((23, 1.9), (977, 0.6)), "continue"),
        (((203, 1.0), (797, 1.0)), "promote"),
    ],
)
async def test_restarts_change_no_verdict(
    tmp_path: Path,
    redis_server: RedisServer,
    parts: Sequence[tuple[int, float]],
    verdict: str,
) -> None:
    """Restarted between the parts or not, the result is the same in every digit."""
    found = []
    for restarts in (False, True):
        fleet = Fleet(tmp_path / str(restarts), redis_server)
        await fleet.start()
        done = 0
        for count, slower in parts:
            if restarts and done:
                await fleet.stop()
                await fleet.start()
            await fleet.judge(_pairs(count, slower, done))
            done += count
        await fleet.stop()
        found.append(fleet.gates)
        await asyncio.to_thread(_flush, redis_server)

    assert found[0] == found[1]
    assert found[0][-1] is not None
    assert found[0][-1].verdict == verdict


def _flush(server: RedisServer) -> None:
    with redis.from_url(server.url) as client:
        client.flushdb()
