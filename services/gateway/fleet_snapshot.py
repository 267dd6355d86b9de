"""Fleet snapshot: gathers missions, orchestrator, validation, memory sessions and alerts.

Calls carry the reader's own key, so that each service decides by itself what the reader may see.
Parts that need an operator are not asked for anybody else. A failed source is a part with a reason.
"""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
import json
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import Any, TypeVar

import grpc
from bem_fleet.services.gateway.errors import from_fleet, from_rpc
from bem_fleet.services.gateway.fleet_schema import (
    Control,
    ModelVersion,
    Notice,
    Part,
    ServedMission,
)
from bem_fleet.services.gateway.metrics_collector import fetch
from bem_fleet.services.gateway.missions import MissionClient
from bem_fleet.services.gateway.state import GatewayState
from bem_fleet.services.gateway.transcoding import to_json
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.memory.v1 import memory_pb2
from bemfleet.mission.v1 import mission_pb2
from bemfleet.validation.v1 import validation_pb2
from fleet import logs
from fleet.access import Role, principal
from fleet.clients import outgoing_metadata
from fleet.errors import FleetError
from google.protobuf.message import Message

T = TypeVar("T")
MAX_CLAIMS = 200
"""Newest claims that a snapshot has."""

_TIMEOUT_S = 5.0
_PAGE = 1000
_MEMORY = "memory"
_SESSIONS = f"/{memory_pb2.DESCRIPTOR.services_by_name['MemoryService'].full_name}/ListSessions"
_ALERTS_PATH = "/api/v1/alerts"
_STATUSES = {validation_pb2.GATE_STATUS_PASS: "pass", validation_pb2.GATE_STATUS_FAIL: "fail"}


async def served_missions(state: GatewayState) -> Part[list[ServedMission]]:
    """Return every mission of the settings, with what it serves."""
    missions = await asyncio.gather(*(_served(one) for one in state.missions.values()))
    return Part(state="ok", data=list(missions))


async def control(state: GatewayState) -> Part[Control]:
    """Return missions, canaries, GPU plan and integration graph; an operator's."""
    stub = state.fleet
    if stub is None:
        return Part(state="absent", reason="BEM_GATEWAY_FLEET_ADDRESS names no orchestrator")

    async def ask() -> Control:
        metadata = outgoing_metadata()
        status, missions, plan, graph = await asyncio.gather(
            stub.GetFleetStatus(
                fleet_pb2.GetFleetStatusRequest(), timeout=_TIMEOUT_S, metadata=metadata
            ),
            stub.ListMissions(
                fleet_pb2.ListMissionsRequest(), timeout=_TIMEOUT_S, metadata=metadata
            ),
            stub.GetPlan(fleet_pb2.GetPlanRequest(), timeout=_TIMEOUT_S, metadata=metadata),
            stub.GetIntegrationGraph(
                fleet_pb2.GetIntegrationGraphRequest(), timeout=_TIMEOUT_S, metadata=metadata
            ),
        )
        return Control(
            status=to_json(status),
            missions=[to_json(one) for one in missions.missions],
            plan=to_json(plan),
            graph=to_json(graph),
        )

    return await _operators("the orchestrator", ask)


async def claims(state: GatewayState) -> Part[list[dict[str, Any]]]:
    """Return the newest claims of the validation service, newest first; an operator's."""

    async def ask() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after, more = "", True
        while more:
            page = await state.validation.ListClaims(
                validation_pb2.ListClaimsRequest(after=after, limit=_PAGE),
                timeout=_TIMEOUT_S,
                metadata=outgoing_metadata(),
            )
            found += [{**to_json(one), "status": _STATUSES.get(one.status)} for one in page.claims]
            found, after, more = found[-MAX_CLAIMS:], page.last_id, page.has_more
        return found[::-1]

    return await _operators("validation", ask)


async def sessions(state: GatewayState) -> Part[list[dict[str, Any]]]:
    """Return the reader's own sessions of mission memory."""
    mission = state.missions.get(_MEMORY)
    if mission is None:
        return Part(state="absent", reason="this fleet has no mission memory")

    async def ask() -> list[dict[str, Any]]:
        stub = mission.router.stub("", logs.request_id.get())
        raw = await stub.unary(
            _SESSIONS,
            memory_pb2.ListSessionsRequest().SerializeToString(),
            timeout_s=_TIMEOUT_S,
            metadata=outgoing_metadata(),
        )
        listed = memory_pb2.ListSessionsResponse.FromString(raw)
        return [_numbers(one, "expires_unix_s") for one in listed.sessions]

    return await _part("mission memory", ask)


async def alerts(state: GatewayState) -> Part[list[Notice]]:
    """Return the alerts that fire in Prometheus."""
    address = state.settings.prometheus_address
    if not address:
        return Part(state="absent", reason="BEM_GATEWAY_PROMETHEUS_ADDRESS names no Prometheus")
    try:
        text = await asyncio.to_thread(fetch, f"{address}{_ALERTS_PATH}")
        return Part(state="ok", data=firing(json.loads(text)))
    except (OSError, ValueError, LookupError, HTTPException) as err:
        return Part(state="unavailable", reason=f"Prometheus at {address}: {err}"[:200])


def firing(answer: dict[str, Any]) -> list[Notice]:
    """Return the notices of the alerts that fire in an answer of Prometheus.

    Args:
        answer: JSON of ``/api/v1/alerts``.

    Raises:
        LookupError: It has another form.
    """
    found = []
    for alert in answer["data"]["alerts"]:
        labels, texts = alert["labels"], alert.get("annotations", {})
        if alert["state"] == "firing":
            text = " ".join(texts[key] for key in ("summary", "description") if texts.get(key))
            found.append(
                Notice(
                    kind="performance",
                    severity="critical" if labels.get("severity") == "critical" else "warning",
                    subject=labels.get("pod") or labels.get("alertname", ""),
                    text=text or labels.get("alertname", ""),
                    source="prometheus",
                )
            )
    return found


async def _served(mission: MissionClient) -> ServedMission:
    try:
        described, listed = await asyncio.gather(
            mission.describe(),
            mission.contract.ListAdapters(
                mission_pb2.ListAdaptersRequest(),
                timeout=_TIMEOUT_S,
                metadata=outgoing_metadata(),
            ),
        )
    except grpc.RpcError as err:
        reason = from_rpc(err).body["message"]
        return ServedMission(name=mission.name, serving=False, reason=str(reason)[:300])
    return ServedMission(
        name=mission.name,
        serving=True,
        version=described.version,
        base_model=described.base_model,
        base_model_digest=described.base_model_digest,
        weights=described.weights,
        warnings=list(described.warnings),
        models=[_model(one) for one in listed.adapters],
        rejected={one.name: one.reason for one in listed.rejected},
        planner=_model(listed.planner) if listed.HasField("planner") else None,
    )


def _model(adapter: mission_pb2.Adapter) -> ModelVersion:
    return ModelVersion(
        name=adapter.name,
        version=adapter.version,
        base=adapter.base,
        rank=adapter.rank,
        loaded_unix_s=adapter.loaded_unix_s,
    )


async def _operators(source: str, ask: Callable[[], Awaitable[T]]) -> Part[T]:
    """Return a part that only operators may read."""
    if principal.get().role < Role.OPERATOR:
        return Part(state="refused", reason=f"{source} answers operators; sign in with such a key")
    return await _part(source, ask)


async def _part(source: str, ask: Callable[[], Awaitable[T]]) -> Part[T]:
    """Return what a source says, or why it says nothing."""
    try:
        return Part(state="ok", data=await ask())
    except (grpc.RpcError, FleetError) as err:
        error = from_rpc(err) if isinstance(err, grpc.RpcError) else from_fleet(err)
        refused = error.status in (401, 403)
        reason = f"{source}: {error.body['message']}"[:300]
        return Part(state="refused" if refused else "unavailable", reason=reason)


def _numbers(message: Message, *names: str) -> dict[str, Any]:
    """Return a message as JSON whose 64-bit fields are numbers, which protobuf writes as texts."""
    converted = to_json(message)
    return {**converted, **{name: int(converted[name]) for name in names}}
