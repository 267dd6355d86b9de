"""What the fleet's answers look like on the wire."""

from collections.abc import Sequence

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.canary.record import read_gate, read_state
from bem_fleet.services.orchestrator.graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.mission import Mission
from bemfleet.fleet.v1 import fleet_pb2 as pb


def mission(given: Mission) -> pb.Mission:
    """Return a mission in short."""
    status = given.status
    return pb.Mission(
        namespace=given.namespace,
        name=given.name,
        priority=given.priority.name.lower(),
        phase=status.get("phase", "Pending"),
        replicas=given.replicas,
        ready_replicas=int(status.get("readyReplicas", 0)),
        conditions=[
            pb.Condition(**{key: c[key] for key in ("type", "status", "reason", "message")})
            for c in status.get("conditions") or ()
        ],
        canary=_canary(given),
    )


def plan(missions: Sequence[Mission], nodes: Sequence[GpuNode]) -> pb.GetPlanResponse:
    """Return who has what."""
    assignments = []
    held: dict[str, int] = {}
    for one in missions:
        refusal = next((c for c in _conditions(one) if c.get("status") == "False"), None)
        for claim in one.claims:
            placed = dict(one.held.get(claim.key, {}))
            lacks = sum(placed.values()) < claim.pods and refusal
            for node, pods in placed.items():
                held[node] = held.get(node, 0) + pods * claim.gpus
            assignments.append(
                pb.Assignment(
                    mission=one.key,
                    claim=claim.key.rpartition("/")[2],
                    gpus=claim.gpus,
                    pods=claim.pods,
                    placed=placed,
                    refused_reason=refusal["reason"] if lacks and refusal else "",
                    refused_message=refusal["message"] if lacks and refusal else "",
                )
            )
    return pb.GetPlanResponse(
        nodes=[
            pb.GpuNode(
                name=node.name,
                product=node.product,
                memory_gib=node.memory_gib,
                gpus=node.gpus,
                slots=node.slots,
                held=held.get(node.name, 0),
                foreign=node.foreign,
            )
            for node in nodes
        ],
        assignments=assignments,
    )


def graph(integrator: CrossMissionIntegrator) -> pb.GetIntegrationGraphResponse:
    """Return the integration graph."""
    answer = pb.GetIntegrationGraphResponse(missions=integrator.missions)
    for edge in integrator.edges():
        # "from" is a keyword of the language, not of the wire.
        fields = {"from": edge.source, "to": edge.target, "interface": edge.interface}
        answer.edges.append(pb.Edge(**fields, healthy=not edge.problem, reason=edge.problem))
    return answer


def fleet(
    missions: Sequence[Mission], nodes: Sequence[GpuNode], *, leader: bool
) -> pb.GetFleetStatusResponse:
    """Return the fleet in numbers."""
    phases: dict[str, int] = {}
    for one in missions:
        phase = one.status.get("phase", "Pending")
        phases[phase] = phases.get(phase, 0) + 1
    made = plan(missions, nodes)
    return pb.GetFleetStatusResponse(
        missions=phases,
        gpus=sum(node.gpus for node in nodes),
        gpus_held=sum(node.held for node in made.nodes),
        claims_refused=sum(1 for one in made.assignments if one.refused_reason),
        canaries=sum(1 for one in missions if not read_state(one.status).phase.is_final),
        edges_unhealthy=sum(1 for e in CrossMissionIntegrator(missions).edges() if e.problem),
        leader=leader,
    )


def _canary(given: Mission) -> pb.Canary | None:
    state = read_state(given.status)
    if not state.id:
        return None
    status, gate = given.status["canary"], read_gate(given.status)
    return pb.Canary(
        id=state.id,
        phase=state.phase.value,
        tries=status.get("image") or status.get("model", ""),
        step=state.step + 1,
        weight=state.weight,
        mirror=state.mirror,
        paused=state.paused,
        reason=state.reason,
        verdict=gate.verdict,
        pairs=gate.pairs,
    )


def _conditions(given: Mission) -> list[dict[str, str]]:
    found: list[dict[str, str]] = given.status.get("conditions") or []
    return [one for one in found if one["type"] == "GPUAssigned"]
