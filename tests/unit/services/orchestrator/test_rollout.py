"""Canary rollout: facts from Deployments, and objects that follow from the state."""

import asyncio
from typing import Any

import pytest
from bem_fleet.services.orchestrator.assignment.gpu_requests import AssignmentPlan
from bem_fleet.services.orchestrator.canary.machine import CanaryPhase, CanaryState, GateVerdict
from bem_fleet.services.orchestrator.canary.status import GateStatus
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import KubeApi, ObjectNotFoundError
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.rollout import Rollout, gather_facts, latest_verdict
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.workloads import canary_deployment, deployment_path

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.clusters import deployment as cluster_deployment
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import DEPLOYMENTS, MISSIONS
from tests.unit.services.orchestrator.missions import canary_spec, deployment, mission

IMAGE, MODEL = {"image": "new"}, {"model": "qa-v2"}


class Advice:
    """Answers that are set by a test."""

    def __init__(self, gate: GateStatus | None = None, *, loaded: bool = False) -> None:
        self.gate, self.loaded = gate, loaded

    def adapter_loaded(self, mission: Mission) -> bool:  # noqa: ARG002 - the protocol's
        """Return what was set."""
        return self.loaded

    def latest_gate(self, mission: Mission) -> GateStatus | None:  # noqa: ARG002
        """Return what was set."""
        return self.gate


def in_phase(phase: str, canary: dict[str, Any], **spec: Any) -> Mission:
    """Return a mission whose canary is in a phase."""
    identity = canary_spec(**canary).id
    status = {"canary": {"id": identity, "phase": phase, **canary}}
    return mission(status=status, canary=canary, model="qa", **spec)


def canary_of(one: Mission, **counts: int) -> dict[str, Any]:
    """Return the canary's Deployment with counts in its status."""
    assert one.canary is not None
    made = canary_deployment(one, deployment(), one.canary, {}, "")
    made["metadata"]["generation"] = 2
    all_counts = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    return {**made, "status": {**all_counts, **counts}}


def test_a_pod_canary_is_ready_with_new_ready_pods_only() -> None:
    """Neither old pods, nor an unobserved generation, nor another image count."""
    one = in_phase("Starting", IMAGE)

    def ready(canary: dict[str, Any] | None) -> bool:
        return gather_facts(
            one, GateStatus(), adapter_loaded=True, stable=deployment(), canary=canary
        ).ready

    assert ready(canary_of(one))
    assert not ready(None)
    assert not ready(canary_of(one, readyReplicas=0))
    assert not ready(canary_of(one, updatedReplicas=0))
    assert not ready(canary_of(one, observedGeneration=1))
    assert not ready(deployment())


def test_an_adapter_canary_is_ready_when_its_adapter_is_loaded() -> None:
    """It needs no Deployment, and there is no rollout of stable to wait for."""
    facts = [
        gather_facts(
            in_phase("Starting", MODEL),
            GateStatus("rollback", "errors"),
            adapter_loaded=loaded,
            stable=deployment(),
            canary=None,
        )
        for loaded in (True, False)
    ]

    assert [one.ready for one in facts] == [True, False]
    assert all(one.stable_is_promoted for one in facts)
    assert (facts[0].verdict, facts[0].verdict_reason) == (GateVerdict.ROLLBACK, "errors")


def test_facts_are_of_the_canary_that_is_specified() -> None:
    """A canary that has been replaced is not ready, whatever runs."""
    one = in_phase("Canary", IMAGE)
    replaced = mission(status=dict(one.status), canary={"image": "newer"})
    facts = gather_facts(
        replaced, GateStatus(), adapter_loaded=True, stable=None, canary=canary_of(one)
    )

    assert not facts.ready
    assert not facts.stable_exists


def test_stable_is_promoted_once_it_is_rolled_out() -> None:
    """It runs the image, and all of its pods are new and ready."""
    one = in_phase("Promoting", IMAGE)

    def promoted(stable: dict[str, Any]) -> bool:
        return gather_facts(
            one, GateStatus(), adapter_loaded=False, stable=stable, canary=None
        ).stable_is_promoted

    assert promoted(deployment(image="new"))
    assert not promoted(deployment(image="new", ready=0))
    assert not promoted(deployment())


def test_a_stable_without_a_track_blocks_pod_canaries_only() -> None:
    """Its Service would send requests to both tracks."""
    trackless = deployment(selector={"matchLabels": {"app": "router"}})
    blockers = [
        gather_facts(
            in_phase("Starting", canary),
            GateStatus(),
            adapter_loaded=True,
            stable=trackless,
            canary=None,
        ).blocker
        for canary in (IMAGE, MODEL)
    ]

    assert "fleet.bem.dev/track" in blockers[0]
    assert blockers[1] == ""


def test_a_verdict_belongs_to_its_canary() -> None:
    """A new canary has none yet; an ended one keeps what is written; a running one asks."""
    written = {"verdict": "promote"}
    running = in_phase("Canary", MODEL)
    running_status = {"canary": {**running.status["canary"], "gate": written}}
    new = mission(status=running_status, canary={"model": "other"})
    current = mission(status=running_status, canary=MODEL)
    ended_status = {"canary": {**running_status["canary"], "phase": "Promoted"}}
    ended = mission(status=ended_status, canary=MODEL)
    told = GateStatus("rollback")

    assert latest_verdict(new, Advice(told)).verdict == "continue"
    assert latest_verdict(current, Advice(told)) == told
    assert latest_verdict(current, Advice(None)).verdict == "promote"
    assert latest_verdict(ended, Advice(told)).verdict == "promote"


@pytest.mark.slow
@needs_kubernetes()
async def test_objects_follow_the_state(plane: ControlPlane, api: KubeApi) -> None:
    """A starting canary gets Deployment and Service; a promotion changes stable; then they go."""
    plane.call("POST", DEPLOYMENTS, cluster_deployment("rolled"))
    plane.call("POST", MISSIONS, mission_object("rolled", canary={"image": "new:2"}))
    view = ClusterView(api, OrchestratorSettings())
    informers = [asyncio.create_task(informer.run()) for informer in view.informers]
    await asyncio.wait_for(view.synced(), 30)
    one = view.get_mission("default/rolled")
    assert one is not None
    assert one.canary is not None
    rollout = Rollout(api, view, Advice(), drain_s=0)

    def state(phase: CanaryPhase) -> CanaryState:
        return CanaryState(one.canary.id if one.canary else "", phase)

    async def image(name: str) -> str:
        found = await api.get(deployment_path("default", name))
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    await rollout.ensure_objects(one, state(CanaryPhase.STARTING), AssignmentPlan())
    started = await image("rolled-canary")
    leftovers = rollout.has_leftovers(one, state(CanaryPhase.ROLLED_BACK))
    await rollout.ensure_objects(one, state(CanaryPhase.PROMOTING), AssignmentPlan())
    promoted = await image("rolled")
    await rollout.ensure_objects(one, state(CanaryPhase.PROMOTED), AssignmentPlan())
    with pytest.raises(ObjectNotFoundError):
        await image("rolled-canary")
    for task in informers:
        task.cancel()
    await asyncio.gather(*informers, return_exceptions=True)
    plane.call("DELETE", f"{MISSIONS}/rolled")
    plane.call("DELETE", f"{DEPLOYMENTS}/rolled")

    assert (started, promoted) == ("new:2", "new:2")
    assert leftovers
