"""One canary in the cluster: its facts, its objects, and what its state asks for."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from bem_fleet.services.orchestrator import workloads
from bem_fleet.services.orchestrator.assignment.claims import Plan
from bem_fleet.services.orchestrator.canary import record
from bem_fleet.services.orchestrator.canary.machine import (
    COMMANDS,
    Facts,
    Phase,
    State,
    Verdict,
    advance,
)
from bem_fleet.services.orchestrator.canary.spec import CanarySpec
from bem_fleet.services.orchestrator.kube.api import Api
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.view import View
from prometheus_client import Counter, Gauge

Object = dict[str, Any]
WEIGHT = Gauge("bem_orchestrator_canary_weight_percent", "Sessions of a canary.", ["mission"])
CHANGES = Counter("bem_orchestrator_canary_changes_total", "Changes of phase.", ["phase"])
_PROMOTER = "bem-promotion"
# A stopped promotion is undone within this; later, the same image is somebody's own wish.
_RESTORED_S = 600.0


class Advice(Protocol):
    """What others know of canaries: whether an adapter is loaded, what the gate says."""

    def adapter_ready(self, mission: Mission) -> bool:
        """Tell whether the mission has the canary's adapter loaded."""
        ...

    def gate(self, mission: Mission) -> record.GateView | None:
        """Return the gate's last word, None if it has not been asked yet."""
        ...


class Rollout:
    """Moves canaries on and keeps their objects as their state says.

    Args:
        api: The API server.
        view: Its caches.
        advice: Of the gate and the missions.
        drain_s: Time between the last request to a canary and its removal.
    """

    def __init__(self, api: Api, view: View, advice: Advice, drain_s: float) -> None:
        self._api, self._view, self._advice, self._drain_s = api, view, advice, drain_s

    def next(self, mission: Mission) -> tuple[State, State, record.GateView]:
        """Return the state as written, the state that is due, and the gate's view."""
        before, gate = last_word(mission, self._advice)
        spec = mission.canary
        stable = self._view.deployment(mission, mission.workload)
        if stable is None and before.phase.is_final:
            return before, before, gate
        fresh = spec is not None and spec.image and before.id != spec.id
        if fresh and spec and stable and (problem := workloads.unsuitable(mission, stable)):
            refused = State(spec.id, Phase.ROLLED_BACK, since=time.time(), reason=problem)
            return before, refused, gate
        facts = Facts(
            now=time.time(),
            ready=self._ready(mission, before),
            verdict=Verdict(gate.verdict),
            verdict_reason=gate.reasons,
            command=mission.command if mission.command in COMMANDS else "",
            stable_done=self._stable_done(mission, stable),
        )
        return before, advance(before, spec, facts), gate

    async def ensure(self, mission: Mission, state: State, plan: Plan) -> None:
        """Bring the canary's objects in line with a state that has been written before."""
        spec = mission.canary
        name = workloads.canary_name(mission)
        stable = self._view.deployment(mission, mission.workload)
        there = self._view.deployment(mission, name)
        if state.phase is Phase.ROLLED_BACK and stable is not None:
            await self._restore(mission, stable, state)
        if state.phase.is_final or spec is None or spec.id != state.id or not spec.image:
            if there is not None and time.time() - state.since >= self._drain_s:
                await self._api.delete(workloads.service_path(mission.namespace, name))
                await self._api.delete(workloads.deployment_path(mission.namespace, name))
            return
        if stable is None:
            return
        if state.phase is Phase.PROMOTING:
            await self._promote(mission, stable, spec)
        elif there is None or not workloads.runs(there, mission, spec):
            await self._make(mission, stable, spec, plan)

    def lingers(self, mission: Mission, state: State) -> bool:
        """Tell whether objects of an ended canary still wait for their removal."""
        return state.phase.is_final and (
            self._view.deployment(mission, workloads.canary_name(mission)) is not None
        )

    def _ready(self, mission: Mission, state: State) -> bool:
        spec = mission.canary
        if spec is None or spec.id != state.id:
            return False
        if not spec.image:
            return self._advice.adapter_ready(mission)
        canary = self._view.deployment(mission, workloads.canary_name(mission))
        return (
            canary is not None
            and workloads.runs(canary, mission, spec)
            and _pods_are_new(canary)
            and workloads.ready_pods(canary) > 0
        )

    def _stable_done(self, mission: Mission, stable: Object | None) -> bool:
        spec = mission.canary
        if spec is None or not spec.image:
            return True
        return (
            stable is not None
            and workloads.runs(stable, mission, spec)
            and workloads.is_complete(stable)
        )

    async def _make(self, mission: Mission, stable: Object, spec: CanarySpec, plan: Plan) -> None:
        claim = mission.canary_claim
        held: Mapping[str, int] = plan.placed.get(claim.key, {}) if claim else {}
        if claim and self._view.gpu_nodes() and not held:
            return  # it waits for GPUs of its own; the plan says which are missing
        products = {node.name: node.product for node in self._view.gpu_nodes()}
        product = next((products[name] for name in held if name in products), "")
        name, namespace = workloads.canary_name(mission), mission.namespace
        service = workloads.canary_service(mission, stable, spec)
        await self._api.patch(workloads.service_path(namespace, name), service, "apply")
        body = workloads.canary_deployment(mission, stable, spec, held, product)
        made = await self._api.patch(workloads.deployment_path(namespace, name), body, "apply")
        self._view.deployments.put(made)

    async def _restore(self, mission: Mission, stable: Object, state: State) -> None:
        """Give stable back the image that a stopped promotion had replaced."""
        canary = mission.status.get("canary") or {}
        kept, tried = canary.get("stable") or {}, canary.get("image", "")
        recent = time.time() - state.since < _RESTORED_S
        if not (canary.get("restore") and recent and kept.get("image")):
            return
        if tried != kept["image"] and workloads.runs_image(stable, mission, tried):
            path = workloads.deployment_path(mission.namespace, mission.workload)
            patch = workloads.restoration(mission, kept)
            made = await self._api.patch(path, patch, "strategic", fieldManager=_PROMOTER)
            self._view.deployments.put(made)

    async def _promote(self, mission: Mission, stable: Object, spec: CanarySpec) -> None:
        if workloads.runs(stable, mission, spec):
            return
        path = workloads.deployment_path(mission.namespace, mission.workload)
        # A manager of its own: what is promoted stays when the placement is applied again.
        patch = workloads.promotion(mission, spec)
        made = await self._api.patch(path, patch, "strategic", fieldManager=_PROMOTER)
        self._view.deployments.put(made)


def last_word(mission: Mission, advice: Advice) -> tuple[State, record.GateView]:
    """Return a canary's state as written, and what the gate has said of what is tried now."""
    state, gate = record.read_state(mission.status), record.read_gate(mission.status)
    spec = mission.canary
    if spec is not None and spec.id != state.id:
        gate = record.GateView()
    elif spec is not None and not state.phase.is_final:
        gate = advice.gate(mission) or gate
    return state, gate


def _pods_are_new(deployment: Object) -> bool:
    status = deployment.get("status") or {}
    generation = deployment["metadata"].get("generation", 0)
    return bool(
        status.get("observedGeneration", 0) >= generation
        and status.get("updatedReplicas", 0) == status.get("replicas", 0)
    )
