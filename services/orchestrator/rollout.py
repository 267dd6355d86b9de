"""Canary rollout in a cluster: gathers facts, advances the state, aligns the objects with it."""

import time
from contextlib import suppress
from typing import Any, Protocol

from bem_fleet.services.orchestrator import workloads
from bem_fleet.services.orchestrator.assignment.gpu_requests import AssignmentPlan
from bem_fleet.services.orchestrator.canary.machine import (
    COMMANDS,
    CanaryPhase,
    CanaryState,
    Facts,
    GateVerdict,
    advance,
)
from bem_fleet.services.orchestrator.canary.spec import CanarySpec
from bem_fleet.services.orchestrator.canary.status import GateStatus
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import ConflictError, KubeApi
from bem_fleet.services.orchestrator.mission import Mission
from prometheus_client import Counter, Gauge

Object = dict[str, Any]
WEIGHT = Gauge(
    "bem_orchestrator_canary_weight_percent",
    "Percent of sessions that the canary answers.",
    ["mission"],
)
CHANGES = Counter(
    "bem_orchestrator_canary_changes_total", "Changes of a canary's phase or step.", ["phase"]
)
# Series that exist from the start: an alert on their increase sees the first one.
for _phase in CanaryPhase:
    CHANGES.labels(_phase.value)
# A field manager of its own, whose fields are given up at once: the promoted image stays when the
# placement is applied again.
_PROMOTION_MANAGER = "bem-promotion"
# A stopped promotion is undone within this time; later the same image is somebody's own decision.
_UNDO_WITHIN_S = 600.0


class CanaryAdvice(Protocol):
    """Answers of other services about canaries."""

    def adapter_loaded(self, mission: Mission) -> bool:
        """Return whether the mission has the canary's adapter loaded."""
        ...

    def latest_gate(self, mission: Mission) -> GateStatus | None:
        """Return the latest result of the canary's analysis; None before the first."""
        ...


class Rollout:
    """Advances canaries and keeps their Deployments and Services in line with their state.

    Args:
        api: Connection to the API server.
        view: Informers of the cluster.
        advice: Canary analysis and adapter readiness.
        drain_s: Seconds between the last request to a canary and its removal.
    """

    def __init__(
        self, api: KubeApi, view: ClusterView, advice: CanaryAdvice, drain_s: float
    ) -> None:
        self._api, self._view, self._advice, self._drain_s = api, view, advice, drain_s

    def next_state(self, mission: Mission) -> tuple[CanaryState, GateStatus]:
        """Return the next state of the mission's canary, and the verdict it follows from."""
        gate = latest_verdict(mission, self._advice)
        facts = gather_facts(
            mission,
            gate,
            adapter_loaded=self._advice.adapter_loaded(mission),
            stable=self._view.deployment(mission, mission.workload),
            canary=self._view.deployment(mission, workloads.canary_name(mission)),
        )
        return advance(mission.canary_status.state, mission.canary, facts), gate

    async def ensure_objects(
        self, mission: Mission, state: CanaryState, plan: AssignmentPlan
    ) -> None:
        """Align the canary's objects with a state that is already persisted.

        The status is written first: after a crash the next leader reads the state and repeats
        this step, while objects without a state would be orphans.
        """
        spec = mission.canary
        stable = self._view.deployment(mission, mission.workload)
        canary = self._view.deployment(mission, workloads.canary_name(mission))
        if state.phase is CanaryPhase.ROLLED_BACK and stable is not None:
            await self._undo_promotion(mission, stable, state)
        if state.phase.is_final or spec is None or spec.id != state.id or not spec.image:
            # Requests in flight finish first: weight 0 only stops new ones.
            if canary is not None and time.time() - state.since >= self._drain_s:
                await self.delete_canary(mission)
            return
        if stable is None:
            return
        if state.phase is CanaryPhase.PROMOTING:
            await self._promote(mission, stable, spec)
        elif canary is None or not workloads.runs_canary_spec(canary, mission, spec):
            await self._apply_canary(mission, stable, spec, plan)

    def has_leftovers(self, mission: Mission, state: CanaryState) -> bool:
        """Return whether the Deployment of an ended canary still waits for its removal."""
        return state.phase.is_final and (
            self._view.deployment(mission, workloads.canary_name(mission)) is not None
        )

    async def delete_canary(self, mission: Mission) -> None:
        """Delete the canary's Service and Deployment."""
        name, namespace = workloads.canary_name(mission), mission.namespace
        await self._api.delete(workloads.service_path(namespace, name))
        await self._api.delete(workloads.deployment_path(namespace, name))

    async def _apply_canary(
        self, mission: Mission, stable: Object, spec: CanarySpec, plan: AssignmentPlan
    ) -> None:
        request, nodes = mission.canary_gpu_request, self._view.gpu_nodes()
        placed = plan.placed.get(request.key, {}) if request else {}
        if request and nodes and not placed:
            return  # the canary waits for GPUs of its own; the plan explains which are missing
        products = {node.name: node.product for node in nodes}
        product = next((products[name] for name in placed if name in products), "")
        name, namespace = workloads.canary_name(mission), mission.namespace
        service = workloads.canary_service(mission, stable, spec)
        await self._api.patch(workloads.service_path(namespace, name), service, "apply")
        body = workloads.canary_deployment(mission, stable, spec, placed, product)
        applied = await self._api.patch(workloads.deployment_path(namespace, name), body, "apply")
        self._view.deployments.apply_write(applied)

    async def _undo_promotion(self, mission: Mission, stable: Object, state: CanaryState) -> None:
        """Restore stable's image after a promotion that was stopped half-way."""
        canary = mission.canary_status
        snapshot, is_recent = canary.stable_snapshot, time.time() - state.since < _UNDO_WITHIN_S
        if not (canary.undo_promotion and is_recent and snapshot.get("image")):
            return
        if canary.image != snapshot["image"] and workloads.runs_image(
            stable, mission, canary.image
        ):
            await self._patch_stable(mission, workloads.restore_patch(mission, snapshot))

    async def _promote(self, mission: Mission, stable: Object, spec: CanarySpec) -> None:
        if not workloads.runs_canary_spec(stable, mission, spec):
            await self._patch_stable(mission, workloads.promotion_patch(mission, spec))

    async def _patch_stable(self, mission: Mission, patch: Object) -> None:
        path = workloads.deployment_path(mission.namespace, mission.workload)
        patched = await self._api.patch(path, patch, "strategic", fieldManager=_PROMOTION_MANAGER)
        # Nobody owns what was promoted: with an owner the next `helm upgrade` would be a conflict.
        metadata = patched["metadata"]
        others = [one for one in metadata["managedFields"] if one["manager"] != _PROMOTION_MANAGER]
        body = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "managedFields": others}
        }
        with suppress(ConflictError):  # somebody writes at once; the upgrade then names the owner
            patched = await self._api.patch(path, body, "merge")
        self._view.deployments.apply_write(patched)


def latest_verdict(mission: Mission, advice: CanaryAdvice) -> GateStatus:
    """Return the latest verdict on the canary that the specification names.

    The verdict in the status may be of an earlier canary; then there is none yet.
    """
    canary, spec = mission.canary_status, mission.canary
    if spec is not None and spec.id != canary.state.id:
        return GateStatus()
    if spec is not None and not canary.state.phase.is_final:
        return advice.latest_gate(mission) or canary.gate
    return canary.gate


def gather_facts(
    mission: Mission,
    gate: GateStatus,
    *,
    adapter_loaded: bool,
    stable: Object | None,
    canary: Object | None,
) -> Facts:
    """Return all observations that the state machine decides by, as of now.

    Args:
        mission: The mission.
        gate: Latest verdict of the canary analysis.
        adapter_loaded: Whether the mission has the canary's adapter loaded.
        stable: The mission's Deployment; None if it is missing.
        canary: The canary's Deployment; None if it is missing.
    """
    spec = mission.canary
    ready, stable_is_promoted, blocker = adapter_loaded, True, ""
    if spec is not None and spec.image:
        ready = canary is not None and _has_ready_pods(mission, spec, canary)
        stable_is_promoted = (
            stable is not None
            and workloads.runs_canary_spec(stable, mission, spec)
            and workloads.is_complete(stable)
        )
        blocker = workloads.canary_blocker(mission, stable) if stable else ""
    return Facts(
        now=time.time(),
        ready=ready and spec is not None and spec.id == mission.canary_status.state.id,
        verdict=GateVerdict(gate.verdict),
        verdict_reason=gate.reasons,
        command=mission.command if mission.command in COMMANDS else "",
        stable_exists=stable is not None,
        stable_is_promoted=stable_is_promoted,
        blocker=blocker,
    )


def _has_ready_pods(mission: Mission, spec: CanarySpec, canary: Object) -> bool:
    """Return whether a ready pod runs the specification, and no pod an older template."""
    return (
        workloads.runs_canary_spec(canary, mission, spec)
        and workloads.pods_are_new(canary)
        and workloads.ready_pods(canary) > 0
    )
