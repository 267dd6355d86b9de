"""Responses of FleetService."""

from typing import Any

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.integration_graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.responses import (
    fleet_status_response,
    graph_response,
    mission_message,
    plan_response,
)

from tests.unit.services.orchestrator.missions import mission

NODE = GpuNode("n", "NVIDIA-L4", 24.0, 4, foreign_units=1)
UNMET = {
    "type": "GPUAssigned",
    "status": "False",
    "reason": "Overbooked",
    "message": "all booked",
}


def placed(pods: int, **status: Any) -> dict[str, Any]:
    """Return a status with pods on the node."""
    return {"phase": "Running", "assignment": [{"request": "p", "pods": {"n": pods}}], **status}


def test_a_mission_is_summed_up_with_its_canary() -> None:
    """State and gate come from the status; a mission without a canary has none."""
    canary = {"id": "a", "phase": "Canary", "step": 2, "weight": 25, "model": "qa-v2"}
    summary = mission_message(mission(status={"canary": canary, "conditions": [UNMET]}))

    assert (summary.canary.candidate, summary.canary.step, summary.canary.weight) == (
        "qa-v2",
        2,
        25,
    )
    assert summary.conditions[0].reason == "Overbooked"
    assert not mission_message(mission()).HasField("canary")


def test_the_plan_counts_gpus_and_names_what_is_unmet() -> None:
    """Two pods of two GPUs fill a node; the third pod's reason is the condition's."""
    one = mission(
        replicas=3, gpus=[{"name": "p", "count": 2}], status=placed(2, conditions=[UNMET])
    )
    plan = plan_response([one], [NODE])

    assert (plan.nodes[0].assigned, plan.nodes[0].foreign_units) == (4, 1)
    assignment = plan.assignments[0]
    assert (assignment.gpu_request, dict(assignment.placed)) == ("p", {"n": 2})
    assert (assignment.unmet_reason, assignment.unmet_message) == ("Overbooked", "all booked")


def test_a_met_request_has_no_reason() -> None:
    """A condition of another request is not its own."""
    one = mission(gpus=[{"name": "p"}], status=placed(1, conditions=[UNMET]))

    assert plan_response([one], [NODE]).assignments[0].unmet_reason == ""


def test_totals_are_of_any_missions() -> None:
    """Names do not matter: what is counted are phases, GPUs, canaries and edges."""
    edge = {"mission": "absent", "interface": "AnyInterface"}
    running = {"id": "a", "phase": "Shadow"}
    missions = [
        mission("alpha", placed(1), gpus=[{"name": "p"}], integrates=[edge]),
        mission("omega", {"canary": running}, canary={"model": "m"}),
    ]
    totals = fleet_status_response(missions, [NODE], leader=True, unanswered={})

    assert dict(totals.missions) == {"Running": 1, "Pending": 1}
    assert (totals.gpus, totals.gpus_assigned, totals.gpu_requests_unmet) == (4, 1, 0)
    assert (totals.canaries, totals.edges_unhealthy, totals.leader) == (1, 1, True)


def test_an_edge_has_both_ends_and_its_health() -> None:
    """The reason is empty where the edge works."""
    running = {"phase": "Running"}
    edge = {"mission": "omega", "interface": "AnyInterface"}
    missions = [mission("alpha", running, integrates=[edge]), mission("omega", running)]
    graph = graph_response(CrossMissionIntegrator(missions))
    message = graph.edges[0]

    assert list(graph.missions) == ["bem/alpha", "bem/omega"]
    assert (getattr(message, "from"), message.to) == ("bem/alpha", "bem/omega")
    assert (message.interface, message.healthy, message.reason) == ("AnyInterface", True, "")
