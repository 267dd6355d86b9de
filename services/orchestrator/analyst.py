"""Asks validation about every canary under way, and the missions for their adapters."""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
import math
from collections.abc import Callable, Mapping

import grpc
from bem_fleet.services.orchestrator.canary.machine import Phase, Verdict
from bem_fleet.services.orchestrator.canary.record import GateView, read_state
from bem_fleet.services.orchestrator.canary.spec import Analysis
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.routes import canary_id, route_of
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.view import Seen
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet import logs
from fleet.clients import open_channel
from fleet.errors import details_of
from grpc import aio
from prometheus_client import Counter

_LOG = logs.get("orchestrator.analyst")
LOOKS = Counter("bem_orchestrator_gate_looks_total", "Looks at canaries, by verdict.", ["verdict"])
_TIMEOUT_S = 60.0
_VERDICTS: Mapping[int, Verdict] = {
    pb.CANARY_VERDICT_CONTINUE: Verdict.CONTINUE,
    pb.CANARY_VERDICT_PROMOTE: Verdict.PROMOTE,
    pb.CANARY_VERDICT_ROLLBACK: Verdict.ROLLBACK,
    pb.CANARY_VERDICT_INCONCLUSIVE: Verdict.INCONCLUSIVE,
}


class Analyst:
    """Knows what the gate said last of each canary; remembers nothing that must survive.

    Args:
        settings: Where validation and the missions are.
        view: The missions.
        changed: Called when something new is known.
    """

    def __init__(
        self, settings: OrchestratorSettings, view: Seen, changed: Callable[[], None]
    ) -> None:
        self._settings, self._view, self._changed = settings, view, changed
        self._channel = open_channel(settings.validation_address)
        self._validation = rpc.ValidationServiceStub(self._channel)
        self._missions: dict[str, aio.Channel] = {}
        self._gates: dict[str, GateView] = {}
        self._loaded: dict[str, bool] = {}

    def adapter_ready(self, mission: Mission) -> bool:
        """Tell whether the canary's adapter was loaded when the mission was last asked."""
        return self._loaded.get(canary_id(mission), False)

    def gate(self, mission: Mission) -> GateView | None:
        """Return the gate's last word, None before the first."""
        return self._gates.get(canary_id(mission))

    async def run(self) -> None:
        """Look at every canary under way, again and again."""
        while True:
            live = [one for one in self._view.missions if _under_way(one)]
            await asyncio.gather(*(self._look(mission) for mission in live))
            known = {canary_id(mission) for mission in live}
            for kept in (self._gates, self._loaded):
                for name in set(kept) - known:
                    del kept[name]
            await asyncio.sleep(self._settings.look_s)

    async def close(self) -> None:
        """Close the channels."""
        await self._channel.close()
        for channel in self._missions.values():
            await channel.close()

    async def _look(self, mission: Mission) -> None:
        name = canary_id(mission)
        try:
            if mission.canary and mission.canary.model:
                self._note(self._loaded, name, await self._adapter(mission))
            if read_state(mission.status).phase is not Phase.STARTING:
                self._note(self._gates, name, await self._judged(mission))
        except grpc.RpcError as err:
            found = details_of(err)
            _LOG.warning("no look", canary=name, code=found.code.name, reason=found.message[:200])
            if found.code is grpc.StatusCode.UNAVAILABLE and mission.canary:
                self._loaded.pop(name, None)

    def _note(self, known: dict[str, bool] | dict[str, GateView], name: str, value: object) -> None:
        if known.get(name) != value:
            known[name] = value  # type: ignore[assignment]
            self._changed()

    async def _adapter(self, mission: Mission) -> bool:
        """Have the canary's adapter loaded; the mission refuses what it does not know."""
        address = self.address(mission, mission.workload)
        channel = self._missions.setdefault(address, open_channel(address))
        stub = mission_pb2_grpc.MissionServiceStub(channel)
        wanted = mission.canary.model if mission.canary else ""
        listed = await stub.ListAdapters(mission_pb2.ListAdaptersRequest(), timeout=5)
        if any(adapter.name == wanted for adapter in listed.adapters):
            return True
        await stub.LoadAdapter(mission_pb2.LoadAdapterRequest(name=wanted), timeout=_TIMEOUT_S)
        return True

    async def _judged(self, mission: Mission) -> GateView:
        route = route_of(mission, self.address)
        analysis = mission.canary.analysis if mission.canary else Analysis()
        request = pb.JudgeCanaryRequest(
            canary_id=canary_id(mission),
            terms=_terms(analysis),
            probes=[pb.CanaryProbe(prompt=p.prompt, answers=p.answers) for p in analysis.probes],
            stable=pb.CanarySide(
                address=self.address(mission, mission.workload),
                model=route.stable.model or mission.model,
            ),
            canary=pb.CanarySide(
                address=route.canary.address or self.address(mission, mission.workload),
                model=route.canary.model or mission.model,
            ),
        )
        answer = await self._validation.JudgeCanary(request, timeout=_TIMEOUT_S)
        verdict = _VERDICTS[answer.verdict]
        LOOKS.labels(verdict.value).inc()
        return _seen(answer, verdict)

    def address(self, mission: Mission, service: str) -> str:
        """Return where a Service of the mission is reached."""
        return self._settings.mission_address.format(
            service=service, namespace=mission.namespace, port=mission.port
        )


def _under_way(mission: Mission) -> bool:
    state = read_state(mission.status)
    same = mission.canary is not None and mission.canary.id == state.id
    return same and not state.phase.is_final and state.phase is not Phase.PROMOTING


def _terms(analysis: Analysis) -> pb.CanaryTerms:
    return pb.CanaryTerms(
        alpha=analysis.alpha,
        max_pairs=analysis.max_pairs,
        error_margin=analysis.error_margin,
        violation_margin=analysis.violation_margin,
        latency_margin=analysis.latency_margin,
        quality_margin=analysis.quality_margin,
        error_limit=analysis.error_limit,
        violation_limit=analysis.violation_limit,
    )


def _seen(answer: pb.JudgeCanaryResponse, verdict: Verdict) -> GateView:
    """Show the metric that is farthest from being shown: it is what the canary waits for."""
    slowest = max(answer.evidence, key=lambda one: one.p_shown, default=None)
    if slowest is None or not slowest.HasField("mean_gain") or math.isnan(slowest.mean_gain):
        return GateView(verdict.value, "; ".join(answer.reasons), answer.pairs)
    return GateView(
        verdict.value,
        "; ".join(answer.reasons),
        answer.pairs,
        f"{slowest.metric} {slowest.mean_gain:+.4f}",
        f"{slowest.p_shown:.3g}",
    )
