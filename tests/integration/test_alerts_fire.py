"""Alerts of the chart, each fired by a fault in real services that a real Prometheus watches.

The rules run at 120 times their speed; their limits are as shipped. Of the others, which promtool's
cases cover, BemAuditLogNotWitnessed has a limit of 120 s that no speed changes, and the rest needs
a learner with its history, certificates of days, or losses within Redis.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from bem.online.codebook import Condition
from bem_fleet.services.online.version_watch import LikelihoodWatch
from bem_fleet.services.safety.metrics_page import SidecarMetricsServer
from bem_fleet.serving.vllm_metrics import ENGINE_METRICS
from bemfleet.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from bemfleet.validation.v1 import validation_pb2
from fleet.clients import open_channel
from fleet.metrics import MetricsPage
from fleet.testing import RedisServer, free_port
from grpc import aio

from tests.integration.clusters import control_plane
from tests.integration.hastened_rules import SPEED, run_hastened_rules
from tests.integration.orchestrators import MISSIONS, condition, orchestrator, until
from tests.integration.routers import tiny_router
from tests.integration.sidecars import scene
from tests.integration.test_orchestrator import RTX, add, add_node, one_gpu
from tests.integration.test_sidecar import BAD, CLEAN
from tests.integration.tracks import (
    SERVICE,
    Script,
    ScriptedMission,
    ask,
    gateway,
    mission,
    socket_of,
)
from tests.integration.validations import gate, scores, validation
from tests.support.prometheus import Prometheus
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.requires("prometheus")]
BEFORE_S, FIRING_S, PAUSE_S = 12.0, 120.0, 0.1
# The rule on memory compares with two hours before, which is 30 s at this speed.
MEMORY_SPEED, MEMORY_BEFORE_S = 240, 20.0
MANY = 40


@asynccontextmanager
async def own_page(folder: Path, speed: int = SPEED) -> AsyncIterator[Prometheus]:
    """Watch this process."""
    page = MetricsPage("127.0.0.1:0")
    try:
        async with run_hastened_rules(
            folder, {"tests": f"127.0.0.1:{page.port}/metrics"}, speed=speed
        ) as prometheus:
            yield prometheus
    finally:
        page.close()


@asynccontextmanager
async def repeated(act: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Do something again and again, with a pause, until the block ends; it may be refused."""

    async def go() -> None:
        while True:
            with suppress(aio.AioRpcError):
                await act()
            await asyncio.sleep(PAUSE_S)

    task = asyncio.create_task(go())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def fire(prometheus: Prometheus, *names: str) -> None:
    """Wait until each of the alerts has fired, in whichever order."""
    missing = set(names)
    limit = time.monotonic() + FIRING_S
    while missing:
        assert time.monotonic() < limit, f"not fired: {sorted(missing)}"
        missing -= await asyncio.to_thread(prometheus.firing)
        await asyncio.sleep(0.2)


async def quiet(prometheus: Prometheus, seconds: float, *names: str) -> None:
    """Let an even load run for a while; none of the alerts fires meanwhile."""
    await asyncio.sleep(seconds)
    assert not await asyncio.to_thread(prometheus.firing) & set(names)


async def test_failing_and_slow_answers_fire(tmp_path: Path, redis_server: RedisServer) -> None:
    """A mission that answers late and fails every second request, behind the gateway."""
    router = ScriptedMission({"": Script(delay_s=0.01), "qa": Script(delay_s=0.01)})
    address = socket_of(tmp_path, "router")

    async with (
        mission(address, router),
        gateway(redis_server.url, missions={"router": address}) as client,
        repeated(lambda: ask(client)),
        own_page(tmp_path) as prometheus,
    ):
        await quiet(prometheus, BEFORE_S, "BemGatewayErrors", "BemGatewayErrorSpike")
        router.scripts["qa"] = Script(delay_s=0.3, fail_every=2)
        await fire(prometheus, "BemGatewayErrors", "BemGatewayErrorSpike", "BemGatewayLatencySpike")
        answer: httpx.Response = await client.get("/v1/models")

    assert answer.status_code == 200


async def test_a_slow_engine_fires(tmp_path: Path) -> None:
    """An engine whose steps take 0.2 s more generates slowly, and its queue grows."""
    async with tiny_router(tmp_path, rows=1, queue=MANY) as (router, channel):
        page = SidecarMetricsServer("127.0.0.1:0", router.address)
        pages = {"router": f"127.0.0.1:{page.port}/upstream/metrics"}
        async with (
            repeated(lambda: generate(channel, 8)),
            run_hastened_rules(tmp_path, pages) as prometheus,
        ):
            await quiet(prometheus, BEFORE_S, "BemQueueLong")
            slow_engine()
            await fire(prometheus, "BemPerformanceDrop")
            waiting = [asyncio.create_task(generate(channel, 200)) for _ in range(MANY - 2)]
            await fire(prometheus, "BemQueueLong")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await page.close()


async def generate(channel: aio.Channel, tokens: int) -> None:
    """Let the engine generate tokens."""
    stub: Any = rpc.RouterServiceStub(channel)
    request = pb.GenerateRequest(prompt="go on", max_tokens=tokens, ignore_eos=True)
    async for _ in stub.Generate(request):
        pass


def slow_engine() -> None:
    """Make each decode step of the running engine 0.2 s longer."""
    engine: Any = ENGINE_METRICS.engine
    runner, decode = engine.core.runner, engine.core.runner.decode

    def slowly(sequences: Any) -> Any:
        time.sleep(0.2)
        return decode(sequences)

    runner.decode = slowly


async def test_violating_answers_fire(tmp_path: Path, redis_server: RedisServer) -> None:
    """A mission that begins to insult people, behind its sidecar."""
    async with scene(tmp_path, redis_server) as fleet:
        fleet.router.pieces = [CLEAN]
        async with repeated(fleet.generate), own_page(tmp_path) as prometheus:
            names = "BemSafetyViolationSpike", "BemAnswersWithheld"
            await quiet(prometheus, BEFORE_S, *names)
            fleet.router.pieces = [BAD]
            await fire(prometheus, *names)


async def test_a_worse_claim_and_a_drift_fire(tmp_path: Path, redis_server: RedisServer) -> None:
    """A gate that passed and fails on new scores; answers of mission B that become unlikely."""
    names = "BemGateLostSignificance", "BemOnlineDrift"
    watch, draw = LikelihoodWatch(2000), random.Random(0)
    known = Condition("any", torch.zeros(4), 1.0, torch.zeros(8))

    def answers(mean: float) -> None:
        for _ in range(400):
            watch.observe(known, mean + draw.gauss(0, 0.1))

    async with validation(tmp_path, redis_server) as (stub, _):
        answers(-0.5)
        good = await stub.Gate(gate("good"))
        async with own_page(tmp_path) as prometheus:
            await quiet(prometheus, BEFORE_S, *names)
            answers(-2.0)
            bad = await stub.Gate(gate("bad", scores("exact_match", -0.05), scores("f1", 0.05)))
            await fire(prometheus, *names)

    assert good.status == validation_pb2.GATE_STATUS_PASS
    assert bad.status == validation_pb2.GATE_STATUS_FAIL


async def test_growing_memory_fires(tmp_path: Path) -> None:
    """A process that takes half its memory again and keeps it."""
    async with own_page(tmp_path, MEMORY_SPEED) as prometheus:
        await quiet(prometheus, MEMORY_BEFORE_S, "BemProcessMemoryGrowth")
        leak = bytearray(b"x") * (psutil.Process().memory_info().rss // 2)
        await fire(prometheus, "BemProcessMemoryGrowth")

    assert leak


async def test_an_aborted_canary_and_broken_keys_fire(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """An orchestrator whose operator aborts a canary, and then breaks its keys file."""
    page, missions = free_port(), tmp_path / "missions"
    missions.mkdir()
    spec = {"model": "qa", "grpcService": SERVICE}
    (missions / "router.json").write_text(
        json.dumps({"metadata": {"name": "router"}, "spec": spec})
    )
    address = socket_of(tmp_path, "router")
    with orchestrator(
        tmp_path,
        missions_dir=str(missions),
        mission_address=f"unix:{tmp_path}/{{service}}.sock",
        redis_url=redis_server.url,
        metrics_address=f"127.0.0.1:{page}",
    ) as process:
        async with (
            mission(address, ScriptedMission({"": Script(), "qa": Script(), "qa-v2": Script()})),
            open_channel(process.address) as channel,
        ):
            stub: Any = fleet_pb2_grpc.FleetServiceStub(channel)
            key = process.keys.metadata("operator")
            options = {"wait_for_ready": True, "timeout": 60, "metadata": key}
            await stub.ListMissions(fleet_pb2.ListMissionsRequest(), **options)
            async with run_hastened_rules(
                tmp_path, {"orchestrator": f"127.0.0.1:{page}/metrics"}
            ) as prometheus:
                await quiet(prometheus, 3.0, "BemCanaryFailed", "BemKeysFileInvalid")
                await begin_and_abort(stub, options)
                await fire(prometheus, "BemCanaryFailed")
                process.keys.file.write_text("keys: [")
                # A server looks at the file when it is called.
                async with repeated(
                    lambda: stub.ListMissions(fleet_pb2.ListMissionsRequest(), **options)
                ):
                    await fire(prometheus, "BemKeysFileInvalid")


async def begin_and_abort(stub: Any, options: dict[str, Any]) -> None:
    """Start a canary of another adapter, and roll it back once it answers requests."""
    begin = fleet_pb2.StartCanaryRequest(name="router")
    begin.canary.update({"model": "qa-v2", "steps": [{"weight": 10, "seconds": 600}]})
    abort = fleet_pb2.SteerCanaryRequest(name="router", command=fleet_pb2.CANARY_COMMAND_ABORT)
    look = fleet_pb2.GetMissionRequest(name="router")
    await stub.StartCanary(begin, **options)
    async with asyncio.timeout(FIRING_S):
        phase = ""
        while phase not in {"Shadow", "Canary"}:  # another program gives no event
            phase = (await stub.GetMission(look, **options)).mission.canary.phase
    await stub.SteerCanary(abort, **options)


@pytest.mark.requires("etcd", "kube-apiserver")
async def test_two_missions_for_one_gpu_fire(tmp_path: Path) -> None:
    """The mission that is displaced fires the alert, until there is a GPU for it again."""
    page = free_port()
    with (
        control_plane(tmp_path) as plane,
        orchestrator(plane.folder, metrics_address=f"127.0.0.1:{page}"),
    ):
        async with run_hastened_rules(
            tmp_path, {"orchestrator": f"127.0.0.1:{page}/metrics"}
        ) as prometheus:
            add_node(plane, "only", RTX)
            add(plane, "sep", priority="medium", gpus=one_gpu())
            add(plane, "safety", priority="critical", gpus=one_gpu())
            await asyncio.to_thread(
                until,
                lambda: condition(plane, "sep", "Conflict").get("status") == "True",
                "conflict",
            )
            await fire(prometheus, "BemGpuConflict")
            add_node(plane, "more", RTX)
            await eventually(lambda: "BemGpuConflict" not in prometheus.firing(), FIRING_S)


@pytest.mark.requires("etcd", "kube-apiserver")
async def test_an_interface_without_its_other_end_fires(tmp_path: Path) -> None:
    """A mission integrates with one that is not active; without the interface nothing is broken."""
    page = free_port()
    edge = {"mission": "online", "interface": "PolicyUpdateInterface"}
    with (
        control_plane(tmp_path) as plane,
        orchestrator(plane.folder, metrics_address=f"127.0.0.1:{page}", probe_interval_s="0.5"),
    ):
        async with run_hastened_rules(
            tmp_path, {"orchestrator": f"127.0.0.1:{page}/metrics"}
        ) as prometheus:
            add(plane, "router", integrates=[edge])
            await fire(prometheus, "BemInterfaceBroken")
            plane.call("DELETE", f"{MISSIONS}/router")
            await eventually(lambda: "BemInterfaceBroken" not in prometheus.firing(), FIRING_S)
