"""A canary's whole life: patched in, split, judged, promoted or rolled back by itself."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from bem_fleet.services.orchestrator.mission import COMMAND
from fleet.testing import RedisServer

from tests.integration.clusters import (
    ControlPlane,
    control_plane,
    deployment,
    needs_kubernetes,
)
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import (
    DEPLOYMENTS,
    MISSIONS,
    make_ready,
    orchestrator,
    status,
)
from tests.integration.tracks import (
    BAD,
    EASY,
    Script,
    ScriptedMission,
    ask,
    gateway,
    mission,
    socket_of,
)
from tests.integration.validations import validation
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, needs_kubernetes()]
UNDECIDED = {"maxPairs": 200_000, "errorMargin": 0.001, "latencyMargin": 3.5}
STEPS = [{"weight": 10, "seconds": 1}, {"weight": 50, "seconds": 1}]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


class Life:
    """A mission under traffic.

    Attributes:
        name: The mission's; one for each test.
        stable: The mission itself.
        canary: Deployment of the canary.
        answers: Status codes of all requests so far.
        texts: Texts of the answers.
    """

    def __init__(self, plane: ControlPlane, client: httpx.AsyncClient) -> None:
        self.plane, self.client = plane, client
        self.stable = ScriptedMission({"": Script(), "qa": Script(), "qa-v2": Script()})
        self.canary = ScriptedMission()
        self.answers: list[int] = []
        self.texts: list[str] = []

    async def traffic(self) -> None:
        """Ask for ever, a new session each time."""
        number = 0
        while True:
            number += 1
            answer = await ask(self.client, f"s{number}")
            self.answers.append(answer.status_code)
            self.texts.append(answer.text)

    async def phase(self, wanted: str, limit_s: float = 90.0) -> dict[str, Any]:
        """Wait for a phase of the canary, playing the cluster's controllers meanwhile."""
        async with asyncio.timeout(limit_s):
            while True:
                for name in ("router", "router-canary"):
                    with suppress(OSError):
                        await asyncio.to_thread(make_ready, self.plane, name)
                found = await asyncio.to_thread(status, self.plane, "router")
                if (canary := found.get("canary", {})).get("phase") == wanted:
                    return dict(canary)
                await asyncio.sleep(0.1)

    async def patch(self, body: dict[str, Any]) -> None:
        """Patch the mission as kubectl does."""
        await asyncio.to_thread(self.plane.merge, f"{MISSIONS}/router", body)


@asynccontextmanager
async def life(plane: ControlPlane, redis_server: RedisServer) -> AsyncIterator[Life]:
    """Run gateway, validation, orchestrator and both tracks of a mission under traffic."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "v").mkdir()
        _, judge = await stack.enter_async_context(
            validation(
                folder / "v",
                redis_server,
                missions={"router": socket_of(folder, "router")},
                canaries={"router": socket_of(folder, "router-canary")},
            )
        )
        made = stack.enter_context(
            orchestrator(
                plane.folder,
                mission_address=f"unix:{folder}/{{service}}.sock",
                validation_address=judge.address,
            )
        )
        client = await stack.enter_async_context(
            gateway(
                redis_server.url,
                missions={"router": socket_of(folder, "router")},
                fleet_address=made.address,
                service_key_file=made.keys.path("service"),
            )
        )
        one = Life(plane, client)
        await stack.enter_async_context(mission(socket_of(folder, "router"), one.stable))
        await stack.enter_async_context(mission(socket_of(folder, "router-canary"), one.canary))
        plane.call("POST", DEPLOYMENTS, deployment("router"))
        plane.call("POST", MISSIONS, mission_object("router", model="qa"))
        traffic = asyncio.create_task(one.traffic())
        try:
            yield one
        finally:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)
            plane.merge(f"{MISSIONS}/router", {"metadata": {"finalizers": None}})
            for path in (f"{MISSIONS}/router", DEPLOYMENTS):
                with suppress(OSError):
                    plane.call("DELETE", path)


def image_canary(**more: Any) -> dict[str, Any]:
    """Return the patch that starts a canary with another image."""
    canary = {"image": "registry.local/mission:2", "shadow": 100, "steps": STEPS, "analysis": EASY}
    return {"spec": {"canary": {**canary, **more}}}


@pytest.mark.parametrize(("script", "reason"), BAD.values(), ids=BAD)
async def test_a_bad_canary_rolls_itself_back(
    plane: ControlPlane, redis_server: RedisServer, script: Script, reason: str
) -> None:
    """Whatever is bad about it, it is taken back, and no request has failed because of it."""
    async with life(plane, redis_server) as one:
        one.canary.scripts[""] = script
        # What is withheld or fails is a wrong answer to a probe too: only one of both may decide.
        margin = EASY["qualityMargin"] if reason == "quality is worse" else 0.9
        await one.patch(image_canary(analysis={**EASY, "qualityMargin": margin}))
        ended = await one.phase("RolledBack")
        image = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"]["template"]["spec"]
        # A fast verdict on a slow machine comes before: the requests go on after it.
        await eventually(lambda: len(one.answers) > 50, 90)
        before = len(one.answers)
        await asyncio.sleep(0.5)

    assert reason in ended["reason"]
    assert ended["weight"] == 0
    assert image["containers"][0]["image"] == "registry.local/mission:1"
    assert set(one.answers) == {200}
    assert not any("content_filter" in text for text in one.texts)
    assert before > 50


async def test_a_good_canary_is_promoted(plane: ControlPlane, redis_server: RedisServer) -> None:
    """It passes its steps, stable takes its image over, its Deployment goes; nothing failed."""
    async with life(plane, redis_server) as one:
        await one.patch(image_canary())
        promoted = await one.phase("Promoted")
        image = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"]["template"]["spec"]
        await eventually(lambda: len(plane.call("GET", DEPLOYMENTS)["items"]) == 1, 90)

    assert image["containers"][0]["image"] == "registry.local/mission:2"
    assert promoted["gate"]["verdict"] == "promote"
    assert [h["phase"] for h in promoted["history"]][-2:] == ["Promoting", "Promoted"]
    assert set(one.answers) == {200}


async def test_an_adapter_canary_needs_no_pod(
    plane: ControlPlane, redis_server: RedisServer
) -> None:
    """Another adapter of the mission is tried, promoted, and answers for the name from then."""
    async with life(plane, redis_server) as one:
        one.stable.scripts["qa-v2"] = Script(text="right indeed")
        easy = {**EASY, "qualityMargin": 0.5}
        await one.patch(
            {
                "spec": {
                    "canary": {"model": "qa-v2", "shadow": 100, "steps": STEPS, "analysis": easy}
                }
            }
        )
        await one.phase("Promoted")
        await eventually(lambda: "right indeed" in one.texts[-1], 90)
        pods = plane.call("GET", DEPLOYMENTS)["items"]

    assert len(pods) == 1
    assert set(one.answers) == {200}


async def test_people_steer_by_annotation(plane: ControlPlane, redis_server: RedisServer) -> None:
    """Pause holds the step, abort ends it at once, and the annotation is taken off."""

    def annotated(command: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {COMMAND: command}}}

    def annotations() -> dict[str, str]:
        found = plane.call("GET", f"{MISSIONS}/router")["metadata"].get("annotations")
        return found or {}

    async with life(plane, redis_server) as one:
        await one.patch(image_canary(analysis=UNDECIDED))
        await one.phase("Canary")
        await one.patch(annotated("pause"))
        await eventually(lambda: status(plane, "router")["canary"]["paused"], 90)
        await asyncio.sleep(1.5)
        held = status(plane, "router")["canary"]
        await one.patch(annotated("abort"))
        ended = await one.phase("RolledBack")
        # It is taken off after what follows from it is written.
        await eventually(lambda: COMMAND not in annotations(), 90)

    assert held["paused"]
    assert held["phase"] == "Canary"
    assert ended["reason"] == "aborted by a person"


async def test_a_promotion_that_is_aborted_is_undone(
    plane: ControlPlane, redis_server: RedisServer
) -> None:
    """A person's abort wins even while stable takes the image over: it gets its own back."""

    def image() -> str:
        spec = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"]["template"]["spec"]
        return str(spec["containers"][0]["image"])

    async with life(plane, redis_server) as one:
        await one.patch(image_canary(analysis=UNDECIDED))
        await one.phase("Canary")
        await one.patch({"metadata": {"annotations": {COMMAND: "promote"}}})
        # Nobody plays the Deployment controller now, so the promotion stays half-way.
        await eventually(lambda: image() == "registry.local/mission:2", 90)
        await one.patch({"spec": {"canary": None}})
        await eventually(lambda: image() == "registry.local/mission:1", 90)
        ended = status(plane, "router")["canary"]

    assert ended["phase"] == "RolledBack"
    assert ended["reason"] == "removed from the specification"
