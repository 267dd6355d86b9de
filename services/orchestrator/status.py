"""What is written about a mission: phase, columns, conditions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bem_fleet.services.orchestrator.assignment.claims import Claim, Plan, Refusal
from bem_fleet.services.orchestrator.assignment.inventory import family
from bem_fleet.services.orchestrator.mission import MISSION_LABEL, TRACK_LABEL, Mission
from bem_fleet.services.orchestrator.workloads import is_complete, ready_pods

Object = dict[str, Any]


class Conditions:
    """Builds the conditions of one status; an unchanged one keeps its time.

    Args:
        mission: Whose.
    """

    def __init__(self, mission: Mission) -> None:
        self._old = {c["type"]: c for c in mission.status.get("conditions") or ()}
        self._generation = mission.raw["metadata"].get("generation", 0)
        self.made: list[Object] = []

    def add(self, kind: str, holds: bool, reason: str, message: str) -> None:
        """Add one."""
        status = "True" if holds else "False"
        old = self._old.get(kind, {})
        when = old.get("lastTransitionTime") if old.get("status") == status else None
        self.made.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:1024],
                "observedGeneration": self._generation,
                "lastTransitionTime": when or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )


def on_cpu(mission: Mission, products: Mapping[str, str]) -> bool:
    """Tell whether the mission runs without GPUs: it asks for none, or the cluster has none.

    ``products`` has every node that has GPUs; so everywhere here.
    """
    return not mission.claims or (not products and mission.cpu_fallback)


def pods_allowed(mission: Mission, plan: Plan, products: Mapping[str, str]) -> int:
    """Return how many pods may run: those with GPUs, or all where none are needed."""
    if on_cpu(mission, products):
        return mission.replicas
    return sum(plan.placed.get(mission.claims[0].key, {}).values())


def status_of(
    mission: Mission, plan: Plan, products: Mapping[str, str], deployment: Object | None
) -> Object:
    """Return the status of a mission, apart from its canary's."""
    conditions = Conditions(mission)
    cpu = on_cpu(mission, products)
    _workload(conditions, mission, deployment)
    _gpus(conditions, mission, plan, cpu=cpu)
    allowed, ready = pods_allowed(mission, plan, products), ready_pods(deployment)
    phase, why = _phase(mission, deployment, allowed, ready)
    conditions.add("Ready", phase in ("Running", "Stopped"), phase, why)
    claims = [*mission.claims, *([c] if (c := mission.canary_claim) else [])]
    first = plan.placed.get(mission.claims[0].key, {}) if mission.claims else {}
    gpus = sum(first.values()) * mission.claims[0].gpus if mission.claims else 0
    product = next((products[n] for n in first if n in products), "")
    return {
        "observedGeneration": mission.raw["metadata"].get("generation", 0),
        "phase": phase,
        "replicas": int(((deployment or {}).get("status") or {}).get("replicas", 0)),
        "readyReplicas": ready,
        "selector": f"{MISSION_LABEL}={mission.name},{TRACK_LABEL}=stable",
        "gpu": f"{gpus}x{family(product)}" if first else ("cpu" if cpu else "none"),
        "node": ",".join(sorted(first)) if first else "",
        "assignment": [_assigned(c, plan, products) for c in claims if c.key in plan.placed],
        "conditions": conditions.made,
    }


def _workload(conditions: Conditions, mission: Mission, deployment: Object | None) -> None:
    if deployment is None:
        conditions.add(
            "WorkloadFound",
            False,
            "DeploymentMissing",
            f"there is no Deployment {mission.workload} with the label {MISSION_LABEL}",
        )
        return
    names = [c["name"] for c in deployment["spec"]["template"]["spec"]["containers"]]
    if mission.container not in names:
        message = f"Deployment {mission.workload} has no container {mission.container}: {names}"
        conditions.add("WorkloadFound", False, "ContainerMissing", message)
    else:
        conditions.add("WorkloadFound", True, "Found", f"Deployment {mission.workload}")


def _gpus(conditions: Conditions, mission: Mission, plan: Plan, *, cpu: bool) -> None:
    refused = [(c, plan.refused[c.key]) for c in mission.claims if c.key in plan.refused]
    conflicts = [(c, r) for c, r in refused if r.reason.is_conflict]
    if not mission.claims:
        conditions.add("GPUAssigned", True, "NoneNeeded", "the mission asks for no GPU")
    elif refused:
        reason = refused[0][1].reason
        running = "; it runs on CPU nodes" if cpu else ""
        conditions.add("GPUAssigned", False, reason, _words(refused) + running)
    else:
        conditions.add("GPUAssigned", True, "Assigned", "all its claims have GPUs")
    if conflicts:
        conditions.add("Conflict", True, conflicts[0][1].reason, _words(conflicts))
    else:
        conditions.add("Conflict", False, "None", "nothing is booked twice")


def _words(refused: Sequence[tuple[Claim, Refusal]]) -> str:
    return "; ".join(
        f"{claim.key.rpartition('/')[2]}: {refusal.message}"
        + (f" ({refusal.pods} of {claim.pods} pods wait)" if claim.pods > 1 else "")
        for claim, refusal in refused
    )


def _phase(
    mission: Mission, deployment: Object | None, allowed: int, ready: int
) -> tuple[str, str]:
    if mission.replicas == 0:
        return "Stopped", "no pods are wanted"
    if deployment is None:
        return "Pending", "its Deployment is missing"
    if allowed == 0:
        return "Pending", "no pod has a GPU"
    if not is_complete(deployment) or ready < allowed:
        return "Progressing", f"{ready} of {allowed} pods are ready"
    if allowed < mission.replicas:
        return "Degraded", f"{allowed} of {mission.replicas} pods have GPUs"
    return "Running", f"{ready} pods are ready"


def _assigned(claim: Claim, plan: Plan, products: Mapping[str, str]) -> Object:
    pods = dict(plan.placed[claim.key])
    product = next((products[name] for name in pods if name in products), "")
    name = claim.key.rpartition("/")[2]
    return {"claim": name, "product": product, "gpus": claim.gpus, "pods": pods}
