"""Responses of FleetService, built from missions and nodes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.integration_graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.mission import Mission
from bemfleet.fleet.v1 import fleet_pb2 as pb


def mission_message(mission: Mission) -> pb.Mission:
    """Return the summary of a mission."""
    return pb.Mission(
        namespace=mission.namespace,
        name=mission.name,
        priority=mission.priority.name.lower(),
        phase=mission.phase,
        replicas=mission.replicas,
        ready_replicas=mission.ready_replicas,
        conditions=[
            pb.Condition(**{key: c[key] for key in ("type", "status", "reason", "message")})
            for c in mission.status.get("conditions") or ()
        ],
        canary=_canary(mission),
    )


def plan_response(missions: Sequence[Mission], nodes: Sequence[GpuNode]) -> pb.GetPlanResponse:
    """Return which requests have which GPUs, and what the unmet ones lack."""
    assigned: Counter[str] = Counter()
    assignments = []
    for mission in missions:
        for request in mission.gpu_requests:
            for node, pods in mission.placed.get(request.key, {}).items():
                assigned[node] += pods * request.gpus
        assignments += _assignments(mission)
    return pb.GetPlanResponse(
        nodes=[
            pb.GpuNode(
                name=node.name,
                product=node.product,
                memory_gib=node.memory_gib,
                gpus=node.gpus,
                pods_per_gpu=node.pods_per_gpu,
                assigned=assigned[node.name],
                foreign_units=node.foreign_units,
            )
            for node in nodes
        ],
        assignments=assignments,
    )


def graph_response(integrator: CrossMissionIntegrator) -> pb.GetIntegrationGraphResponse:
    """Return the integration graph."""
    response = pb.GetIntegrationGraphResponse(missions=integrator.missions)
    for edge in integrator.edges():
        # "from" is a keyword in Python, so the field is passed by a mapping.
        fields = {"from": edge.source, "to": edge.target, "interface": edge.interface}
        response.edges.append(pb.Edge(**fields, healthy=not edge.problem, reason=edge.problem))
    return response


def fleet_status_response(
    missions: Sequence[Mission],
    nodes: Sequence[GpuNode],
    *,
    leader: bool,
    unanswered: Mapping[str, str],
) -> pb.GetFleetStatusResponse:
    """Return the totals of the fleet.

    Args:
        missions: All missions.
        nodes: Nodes with GPUs.
        leader: Whether this replica reconciles.
        unanswered: Why a mission did not answer its last probe, by ``namespace/name``.
    """
    plan = plan_response(missions, nodes)
    edges = CrossMissionIntegrator(missions, unanswered).edges()
    return pb.GetFleetStatusResponse(
        missions=Counter(mission.phase for mission in missions),
        gpus=sum(node.gpus for node in nodes),
        gpus_assigned=sum(node.assigned for node in plan.nodes),
        gpu_requests_unmet=sum(1 for one in plan.assignments if one.unmet_reason),
        canaries=sum(1 for m in missions if not m.canary_status.state.phase.is_final),
        edges_unhealthy=sum(1 for edge in edges if edge.problem),
        leader=leader,
    )


def _assignments(mission: Mission) -> list[pb.Assignment]:
    conditions: list[dict[str, str]] = mission.status.get("conditions") or []
    unassigned = next(
        (c for c in conditions if c["type"] == "GPUAssigned" and c.get("status") == "False"), None
    )
    assignments = []
    for request in mission.gpu_requests:
        placed = dict(mission.placed.get(request.key, {}))
        unmet = unassigned if sum(placed.values()) < request.pods else None
        assignments.append(
            pb.Assignment(
                mission=mission.key,
                gpu_request=request.name,
                gpus=request.gpus,
                pods=request.pods,
                placed=placed,
                unmet_reason=unmet["reason"] if unmet else "",
                unmet_message=unmet["message"] if unmet else "",
            )
        )
    return assignments


def _canary(mission: Mission) -> pb.Canary | None:
    canary = mission.canary_status
    state = canary.state
    if not state.id:
        return None
    message = pb.Canary(
        id=state.id,
        phase=state.phase.value,
        candidate=canary.candidate,
        step=state.step + 1,
        weight=state.weight,
        mirror=state.mirror,
        paused=state.paused,
        reason=state.reason,
        verdict=canary.gate.verdict,
        pairs=canary.gate.pairs,
        verdict_reasons=canary.gate.reasons,
        evidence=[
            pb.CanaryEvidence(
                metric=one.metric,
                gain=one.gain,
                p_shown=one.shown,
                p_worse=one.worse,
                pairs=one.pairs,
                correlation_time=one.correlation,
            )
            for one in canary.gate.evidence
        ],
    )
    if mission.canary is not None:
        terms = {name: one for name, one in mission.canary.analysis.items() if name != "probes"}
        probes = len(mission.canary.analysis.get("probes") or ())
        message.analysis.update({**terms, "probes": probes})
    return message
