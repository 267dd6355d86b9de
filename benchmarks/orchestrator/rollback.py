"""Rollback benchmark: time until the last request to an aborted adapter canary."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.clients import open_channel
from fleet.files import write_json_atomic
from fleet.testing import RedisServer
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from grpc import aio

from tests.integration.clusters import control_plane, deployment
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import DEPLOYMENTS, MISSIONS, Orchestrator, orchestrator
from tests.integration.tracks import Script, ScriptedMission, ask, gateway, mission, socket_of
from tests.integration.validations import validation

_ROUNDS, _AT_ONCE, _SETTLED_S = 30, 8, 0.5
_STABLE, _CANARY = "stable", "canary"


def rollback() -> list[dict[str, Any]]:
    """Return the times with missions in files and with a real API server."""
    return [asyncio.run(_measured(kept)) for kept in ("files", "API server")]


async def _measured(kept: str) -> dict[str, Any]:
    async with _fleet(kept) as (fleet, client):
        times = [await _once(fleet, client, attempt) for attempt in range(_ROUNDS)]
    asked, last, mixed = (np.array(column) for column in zip(*times, strict=True))
    return {
        "missions_in": kept,
        "rollbacks": _ROUNDS,
        "abort_answered_p50_ms": round(float(np.median(asked)) * 1000, 1),
        "last_canary_request_p50_ms": round(float(np.median(last)) * 1000, 1),
        "last_canary_request_p95_ms": round(float(np.quantile(last, 0.95)) * 1000, 1),
        "last_canary_request_max_ms": round(float(last.max()) * 1000, 1),
        "failed_or_mixed": int(mixed.sum()),
    }


async def _once(fleet: Any, client: httpx.AsyncClient, attempt: int) -> tuple[float, float, int]:
    """Return seconds until the abort's answer and the canary's last request, and what broke."""
    steps = [{"weight": 50, "seconds": 600}]
    canary = ParseDict({"model": "qa-v2", "steps": steps, "attempt": attempt}, Struct())
    await fleet.StartCanary(pb.StartCanaryRequest(name="router", canary=canary), timeout=10)
    await _weighed(fleet, 50)
    seen: list[tuple[float, str]] = []
    asking = [asyncio.create_task(_ask(client, seen)) for _ in range(_AT_ONCE)]
    await asyncio.sleep(_SETTLED_S)
    began = time.perf_counter()
    abort = pb.SteerCanaryRequest(name="router", command=pb.CANARY_COMMAND_ABORT)
    await fleet.SteerCanary(abort, timeout=10)
    answered = time.perf_counter() - began
    await asyncio.sleep(_SETTLED_S)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    last = max(at for at, text in seen if text == _CANARY)
    broken = sum(text not in (_STABLE, _CANARY) for _, text in seen)
    return answered, max(last - began, 0.0), broken


async def _ask(client: httpx.AsyncClient, seen: list[tuple[float, str]]) -> None:
    """Ask for ever, a new session each time; notes when each request began and who answered."""
    while True:
        began = time.perf_counter()
        answer = await ask(client, f"{began}")
        found = answer.json()["choices"][0]["message"]["content"] if answer.is_success else ""
        seen.append((began, found))


async def _weighed(fleet: Any, weight: int) -> None:
    """Return as soon as the canary has this weight."""
    request = pb.GetMissionRequest(name="router")
    async with asyncio.timeout(60):
        while True:
            answer = await fleet.GetMission(request, timeout=30, wait_for_ready=True)
            if answer.mission.canary.weight == weight:
                return
            await asyncio.sleep(0.05)


def _operators_stub(channel: aio.Channel, made: Orchestrator) -> Any:
    """Return the methods of the stub that this benchmark calls, with the operator's key."""
    stub, key = rpc.FleetServiceStub(channel), made.keys.metadata("operator")
    names = ("GetMission", "StartCanary", "SteerCanary")
    return SimpleNamespace(**{name: partial(getattr(stub, name), metadata=key) for name in names})


@asynccontextmanager
async def _fleet(kept: str) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """Run gateway, validation, orchestrator and a mission with two adapters."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = {"mission_address": f"unix:{folder}/{{service}}.sock"}
        if kept == "files":
            (folder / "missions").mkdir()
            given = {"metadata": {"name": "router"}, "spec": {"model": "qa"}}
            write_json_atomic(folder / "missions/router.json", given)
            settings["missions_dir"] = str(folder / "missions")
        else:
            plane = stack.enter_context(control_plane(folder))
            plane.call("POST", DEPLOYMENTS, deployment("router"))
            plane.call("POST", MISSIONS, mission_object("router", model="qa"))
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.kill)
        address = socket_of(folder, "router")
        _, judge = await stack.enter_async_context(
            validation(folder, redis, missions={"router": address})
        )
        made = stack.enter_context(
            orchestrator(folder, validation_address=judge.address, redis_url=redis.url, **settings)
        )
        scripts = {"": Script(_STABLE), "qa": Script(_STABLE), "qa-v2": Script(_CANARY)}
        await stack.enter_async_context(mission(address, ScriptedMission(scripts)))
        client = await stack.enter_async_context(
            gateway(
                redis.url,
                missions={"router": address},
                fleet_address=made.address,
                service_key_file=made.keys.path("service"),
            )
        )
        channel = await stack.enter_async_context(open_channel(made.address))
        fleet = _operators_stub(channel, made)
        await _weighed(fleet, 0)
        yield fleet, client
