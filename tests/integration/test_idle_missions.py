"""A mission without pods: its first request waits for one, and says what it waits for."""

import asyncio
from pathlib import Path

import httpx
import pytest
from fleet.testing import RedisServer

from tests.integration.sample_mission import SampleMission, serve_sample
from tests.integration.tracks import gateway, socket_of

ASK = {"head": {"adapter": "qa"}, "prompt": "why?"}
PATH = "/v1/missions/sample/Ask"


async def figures(client: httpx.AsyncClient) -> tuple[bool, bool]:
    """Return whether the mission is wanted, and whether a call waits for it."""
    page = (await client.get("/metrics")).text
    wanted, held = (
        f'bem_gateway_{name}{{mission="sample"}} 1.0' in page
        for name in ("mission_wanted", "calls_held")
    )
    return wanted, held


async def test_the_first_request_is_held_and_answered(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Twice, the second time after the mission has gone to sleep; a list of missions wakes none."""
    missions = {one: socket_of(tmp_path, one) for one in ("router", "sample")}
    idle = {"idle_missions": ["sample"], "wake_timeout_s": 60, "idle_after_s": 0}
    answers = []
    async with gateway(redis_server.url, missions=missions, **idle) as client:
        listed = (await client.get("/v1/missions/sample")).json()
        asleep = await figures(client)
        for _ in range(2):
            asked = asyncio.create_task(client.post(PATH, json=ASK))
            async with asyncio.timeout(30):
                while await figures(client) != (True, True):
                    assert not asked.done()
            async with serve_sample(missions["sample"], SampleMission()):
                answers += [await asked, await client.post(PATH, json=ASK)]
        again = await figures(client)

    assert listed["status"] == "unavailable"
    assert (asleep, again) == ((False, False), (False, False))
    assert [one.status_code for one in answers] == [200] * 4
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(("names", "status"), [(["sample"], "waited for"), ([], "")])
async def test_without_a_pod_it_is_503_with_a_delay(
    tmp_path: Path, redis_server: RedisServer, names: list[str], status: str
) -> None:
    """A mission that may sleep is waited for; any other that is away fails at once."""
    missions = {one: socket_of(tmp_path, one) for one in ("router", "sample")}
    idle = {"idle_missions": names, "wake_timeout_s": 0.2}
    async with gateway(redis_server.url, missions=missions, **idle) as client:
        answer = await client.post(PATH, json=ASK)

    assert answer.status_code == 503
    assert status in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == ("10" if names else "1")
