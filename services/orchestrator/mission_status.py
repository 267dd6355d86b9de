"""Mission status: phase, printed columns and conditions, derived from plan and Deployment."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    GpuRequest,
    UnmetRequest,
)
from bem_fleet.services.orchestrator.assignment.inventory import short_product_name
from bem_fleet.services.orchestrator.mission import MISSION_LABEL, TRACK_LABEL, Mission
from bem_fleet.services.orchestrator.workloads import (
    is_complete,
    ready_pods,
    workload_problem,
)

Object = dict[str, Any]


class ConditionBuilder:
    """Builds the conditions of one status; an unchanged condition keeps its transition time.

    Args:
        mission: Mission with the current conditions.
    """

    def __init__(self, mission: Mission) -> None:
        self._old = {c["type"]: c for c in mission.status.get("conditions") or ()}
        self._generation = mission.raw["metadata"].get("generation", 0)
        self.conditions: list[Object] = []

    def add(self, kind: str, holds: bool, reason: str, message: str) -> None:
        """Add a condition."""
        status = "True" if holds else "False"
        old = self._old.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        self.conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:1024],
                "observedGeneration": self._generation,
                "lastTransitionTime": since or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def keep(self, kind: str) -> None:
        """Add a condition as it is, if the mission has it."""
        if kind in self._old and all(one["type"] != kind for one in self.conditions):
            self.conditions.append(self._old[kind])


def runs_on_cpu(mission: Mission, products: Mapping[str, str]) -> bool:
    """Return whether the mission runs without GPUs: it requests none, or the cluster has none.

    Args:
        mission: The mission.
        products: Product of each node that has GPUs, by node name.
    """
    return not mission.gpu_requests or (not products and mission.cpu_fallback)


def allowed_pods(mission: Mission, plan: AssignmentPlan, products: Mapping[str, str]) -> int:
    """Return how many pods may run: those with GPUs, or all if no GPUs are needed."""
    if runs_on_cpu(mission, products):
        return mission.replicas
    return sum(plan.placed.get(mission.gpu_requests[0].key, {}).values())


def mission_status(
    mission: Mission,
    plan: AssignmentPlan,
    products: Mapping[str, str],
    deployment: Object | None,
    *,
    builder: ConditionBuilder | None = None,
) -> Object:
    """Return the status of a mission, except for its ``canary`` part.

    Args:
        mission: The mission.
        plan: GPU assignment of the fleet.
        products: Product of each node that has GPUs, by node name.
        deployment: The mission's Deployment; None if it is missing.
        builder: Builder with conditions of other parts; None begins with none.
    """
    builder = builder or ConditionBuilder(mission)
    cpu = runs_on_cpu(mission, products)
    _add_workload_found(builder, mission, deployment)
    _add_gpu_conditions(builder, mission, plan, cpu=cpu)
    allowed, ready = allowed_pods(mission, plan, products), ready_pods(deployment)
    phase, message = _phase(mission, deployment, allowed, ready)
    builder.add("Ready", phase in ("Running", "Stopped"), phase, message)
    own = mission.gpu_requests[0] if mission.gpu_requests else None
    placed = plan.placed.get(own.key, {}) if own else {}
    gpus = sum(placed.values()) * own.gpus if own else 0
    product = short_product_name(_product(placed, products))
    canary = mission.canary_gpu_request
    requests = [*mission.gpu_requests, *([canary] if canary else [])]
    return {
        "observedGeneration": mission.raw["metadata"].get("generation", 0),
        "phase": phase,
        "replicas": int(((deployment or {}).get("status") or {}).get("replicas", 0)),
        "readyReplicas": ready,
        "selector": f"{MISSION_LABEL}={mission.name},{TRACK_LABEL}=stable",
        "gpu": f"{gpus}x{product}" if placed else ("cpu" if cpu else "none"),
        "node": ",".join(sorted(placed)),
        "assignment": [_assignment(r, plan, products) for r in requests if r.key in plan.placed],
        "conditions": builder.conditions,
    }


def _product(placed: Mapping[str, int], products: Mapping[str, str]) -> str:
    return next((products[name] for name in placed if name in products), "")


def _add_workload_found(
    builder: ConditionBuilder, mission: Mission, deployment: Object | None
) -> None:
    if deployment is None:
        message = f"there is no Deployment {mission.workload} with the label {MISSION_LABEL}"
        builder.add("WorkloadFound", False, "DeploymentMissing", message)
        return
    reason, message = workload_problem(mission, deployment)
    if reason:
        builder.add("WorkloadFound", False, reason, message)
    else:
        builder.add("WorkloadFound", True, "Found", f"Deployment {mission.workload}")


def _add_gpu_conditions(
    builder: ConditionBuilder, mission: Mission, plan: AssignmentPlan, *, cpu: bool
) -> None:
    unmet = [(r, plan.unmet[r.key]) for r in mission.gpu_requests if r.key in plan.unmet]
    conflicts = [(request, one) for request, one in unmet if one.reason.is_conflict]
    if not mission.gpu_requests:
        builder.add("GPUAssigned", True, "NoneNeeded", "the mission requests no GPU")
    elif unmet:
        suffix = "; it runs on CPU nodes" if cpu else ""
        builder.add("GPUAssigned", False, unmet[0][1].reason, _describe(unmet) + suffix)
    else:
        builder.add("GPUAssigned", True, "Assigned", "all GPU requests are met")
    if conflicts:
        builder.add("Conflict", True, conflicts[0][1].reason, _describe(conflicts))
    else:
        builder.add("Conflict", False, "None", "no GPU is requested twice")


def _describe(unmet: Sequence[tuple[GpuRequest, UnmetRequest]]) -> str:
    return "; ".join(
        f"{request.name}: {one.message}"
        + (f" ({one.pods} of {request.pods} pods wait)" if request.pods > 1 else "")
        for request, one in unmet
    )


def _phase(
    mission: Mission, deployment: Object | None, allowed: int, ready: int
) -> tuple[str, str]:
    """Return the phase and its explanation."""
    if mission.replicas == 0:
        return "Stopped", "no pods are wanted"
    if deployment is None or workload_problem(mission, deployment)[0]:
        what = "is missing" if deployment is None else "cannot be used; see WorkloadFound"
        return "Pending", f"its Deployment {what}"
    if allowed == 0:
        return "Pending", "no pod has a GPU"
    if not is_complete(deployment) or ready < allowed:
        return "Progressing", f"{ready} of {allowed} pods are ready"
    if allowed < mission.replicas:
        return "Degraded", f"{allowed} of {mission.replicas} pods have GPUs"
    return "Running", f"{ready} pods are ready"


def _assignment(request: GpuRequest, plan: AssignmentPlan, products: Mapping[str, str]) -> Object:
    pods = dict(plan.placed[request.key])
    product = _product(pods, products)
    return {"request": request.name, "product": product, "gpus": request.gpus, "pods": pods}
