"""Canary analysis runner: polls validation for a verdict, and missions for a canary's adapter.

The runner keeps only the latest answers: after a restart it polls again, and validation derives the
same verdict from the observations in Redis. It speaks MissionService, which every mission serves,
and knows no mission by name.
"""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from bem_fleet.services.orchestrator.canary.machine import CanaryPhase, GateVerdict
from bem_fleet.services.orchestrator.canary.status import GateStatus, MetricStatus
from bem_fleet.services.orchestrator.fleet_store import FleetView
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.routes import canary_id, mission_route
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet import logs
from fleet.access.own_key import Metadata, OwnKey
from fleet.certificates import certificates_of
from fleet.clients import open_channel
from fleet.errors import details_of
from google.protobuf import json_format
from grpc import aio
from prometheus_client import Counter

_LOG = logs.get("orchestrator.canary_analysis")
ANALYSES = Counter(
    "bem_orchestrator_canary_analyses_total", "Canary analyses, by verdict.", ["verdict"]
)
_LIST_TIMEOUT_S, _TIMEOUT_S = 5.0, 60.0
_VERDICTS: Mapping[int, GateVerdict] = {
    pb.CANARY_VERDICT_CONTINUE: GateVerdict.CONTINUE,
    pb.CANARY_VERDICT_PROMOTE: GateVerdict.PROMOTE,
    pb.CANARY_VERDICT_ROLLBACK: GateVerdict.ROLLBACK,
    pb.CANARY_VERDICT_INCONCLUSIVE: GateVerdict.INCONCLUSIVE,
}


class CanaryAnalysisRunner:
    """Polls the analysis of every canary in progress and keeps the latest answers.

    Args:
        settings: Addresses of validation and the missions, and the polling interval.
        view: The missions.
        on_change: Called when an answer differs from the one before.
    """

    def __init__(
        self, settings: OrchestratorSettings, view: FleetView, on_change: Callable[[], None]
    ) -> None:
        self._settings, self._view, self._on_change = settings, view, on_change
        self._own_key = OwnKey(settings.service_key_file)
        self._certificates = certificates_of(settings)
        self._channel = self._open(settings.validation_address)
        self._validation = rpc.ValidationServiceStub(self._channel)
        self._mission_channels: dict[str, aio.Channel] = {}
        self._gates: dict[str, GateStatus] = {}
        self._loaded: dict[str, bool] = {}

    def adapter_loaded(self, mission: Mission) -> bool:
        """Return whether the canary's adapter was loaded at the last poll."""
        return self._loaded.get(canary_id(mission), False)

    def latest_gate(self, mission: Mission) -> GateStatus | None:
        """Return the latest result of the canary's analysis; None before the first."""
        return self._gates.get(canary_id(mission))

    async def run(self) -> None:
        """Poll every canary in progress, at every interval, until cancelled."""
        while True:
            missions = [m for m in self._view.list_missions() if _is_analyzed(m)]
            await asyncio.gather(*(self._poll(mission) for mission in missions))
            known = {canary_id(mission) for mission in missions}
            for answers in (self._gates, self._loaded):
                for ended in set(answers) - known:
                    del answers[ended]
            await asyncio.sleep(self._settings.analysis_interval_s)

    async def close(self) -> None:
        """Close the channels."""
        await self._channel.close()
        for channel in self._mission_channels.values():
            await channel.close()

    def address(self, mission: Mission, service: str) -> str:
        """Return the address of a Service of the mission."""
        return self._settings.mission_address.format(
            service=service, namespace=mission.namespace, port=mission.port
        )

    def mission_stub(self, mission: Mission) -> mission_pb2_grpc.MissionServiceAsyncStub:
        """Return MissionService of a mission's stable pods; calls carry ``metadata``."""
        address = self.address(mission, mission.workload)
        if address not in self._mission_channels:
            self._mission_channels[address] = self._open(address)
        return mission_pb2_grpc.MissionServiceStub(self._mission_channels[address])

    def metadata(self) -> Metadata:
        """Return the metadata of a call with the orchestrator's key."""
        return self._own_key.metadata()

    def _open(self, address: str) -> aio.Channel:
        return open_channel(address, certificates=self._certificates)

    async def _poll(self, mission: Mission) -> None:
        name = canary_id(mission)
        try:
            if mission.canary and mission.canary.model:
                await self._ensure_adapter_loaded(mission, mission.canary.model)
                self._update(self._loaded, name, True)
            # A canary that starts has no observations: its adapter is loaded first.
            if mission.canary_status.state.phase is not CanaryPhase.STARTING:
                self._update(self._gates, name, await self._request_verdict(mission))
        except grpc.RpcError as err:
            error = details_of(err)
            _LOG.warning(
                "analysis failed", canary=name, code=error.code.name, reason=error.message[:200]
            )
            # A mission that is away may come back without the adapter: it counts as not loaded
            # until it is listed again. The latest verdict stays.
            if error.code is grpc.StatusCode.UNAVAILABLE and mission.canary:
                self._loaded.pop(name, None)

    def _update(self, answers: dict[str, Any], name: str, answer: Any) -> None:
        if answers.get(name) != answer:
            answers[name] = answer
            self._on_change()

    async def _ensure_adapter_loaded(self, mission: Mission, adapter: str) -> None:
        """Load the adapter unless the mission lists it; RpcError if the mission refuses it."""
        stub, key = self.mission_stub(mission), self.metadata()
        listed = await stub.ListAdapters(
            mission_pb2.ListAdaptersRequest(), timeout=_LIST_TIMEOUT_S, metadata=key
        )
        if not any(loaded.name == adapter for loaded in listed.adapters):
            await stub.LoadAdapter(
                mission_pb2.LoadAdapterRequest(name=adapter), timeout=_TIMEOUT_S, metadata=key
            )

    async def _request_verdict(self, mission: Mission) -> GateStatus:
        route = mission_route(mission, self.address)
        request = analysis_request(mission.canary.analysis if mission.canary else {})
        request.canary_id = canary_id(mission)
        request.mission = mission.name
        request.canary_has_pods = bool(route.canary.address)
        request.stable.model = route.stable.model or mission.model
        request.canary.model = route.canary.model or mission.model
        response = await self._validation.AnalyzeCanary(
            request, timeout=_TIMEOUT_S, metadata=self.metadata()
        )
        gate = _gate_status(response)
        ANALYSES.labels(gate.verdict).inc()
        return gate


def analysis_request(analysis: Mapping[str, Any]) -> pb.AnalyzeCanaryRequest:
    """Return the request for ``spec.canary.analysis``; field names are the CRD's in JSON form."""
    terms = {name: value for name, value in analysis.items() if name != "probes"}
    return json_format.ParseDict(
        {"terms": terms, "probes": analysis.get("probes") or []}, pb.AnalyzeCanaryRequest()
    )


def _is_analyzed(mission: Mission) -> bool:
    state = mission.canary_status.state
    is_current = mission.canary is not None and mission.canary.id == state.id
    # While stable is promoted the verdict is not asked for: the decision has been made.
    return is_current and not state.phase.is_final and state.phase is not CanaryPhase.PROMOTING


def _gate_status(response: pb.AnalyzeCanaryResponse) -> GateStatus:
    """Return the result with the metric that is farthest from being shown: it delays promotion."""
    verdict, reasons = _VERDICTS[response.verdict].value, "; ".join(response.reasons)
    evidence = tuple(_metric_status(one) for one in response.evidence)
    slowest = max(evidence, key=lambda one: one.shown, default=None)
    gate = GateStatus(verdict, reasons, response.pairs, evidence=evidence)
    if slowest is None or slowest.gain is None:
        return gate
    return replace(gate, delta=f"{slowest.metric} {slowest.gain:+.4f}", p=f"{slowest.shown:.3g}")


def _metric_status(evidence: pb.CanaryEvidence) -> MetricStatus:
    """Return the evidence with four digits: more would change the status at every poll."""
    known = evidence.HasField("mean_gain") and not math.isnan(evidence.mean_gain)
    return MetricStatus(
        evidence.metric,
        _rounded(evidence.mean_gain) if known else None,
        _rounded(evidence.p_shown),
        _rounded(evidence.p_worse),
        evidence.pairs,
        _rounded(evidence.correlation_time),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
