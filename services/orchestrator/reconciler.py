"""Mission reconciler: level-triggered, idempotent, reads informers only and writes differences.

Each pass reads the informers, makes one GPU plan for all missions and writes what differs. A write
that meets a newer object is dropped: the change that made it newer triggers the next pass. Killed
at any point, the next leader finds in the missions' status all that it needs.

Example: a person patches ``spec.canary`` into ``router``. The missions informer sets
``view.changed``; after ``debounce_s`` one pass runs:

1. the plan is unchanged, because requests, nodes and placements equal those of the last pass;
2. ``Rollout.next_state`` returns Starting; the status is patched at the ``resourceVersion`` that
   was read, then Events are recorded;
3. the Deployment has its placement already, so nothing is applied;
4. ``Rollout.ensure_objects`` applies the canary's Deployment and Service.

If the process dies after 2, the next leader reads Starting and begins with 3. If somebody changes
the Mission between read and 2, the patch fails with a conflict, and the change itself triggers a
new pass. As long as a canary runs, a pass is repeated every ``canary_resync_s``.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TypeAlias

from bem_fleet.services.orchestrator import events, workloads
from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    GpuRequest,
    PodsByNode,
)
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.assignment.solver import solve
from bem_fleet.services.orchestrator.canary.machine import CanaryState
from bem_fleet.services.orchestrator.canary.status import canary_status_patch
from bem_fleet.services.orchestrator.canary_conditions import add_canary_conditions
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import ConflictError, KubeApi, KubeError, Object
from bem_fleet.services.orchestrator.kube.informer import object_key
from bem_fleet.services.orchestrator.mission import (
    APPLIED_REPLICAS,
    COMMAND,
    GROUP,
    RETIRED_FINALIZER,
    VALUES_REPLICAS,
    VERSION,
    Mission,
    mission_path,
)
from bem_fleet.services.orchestrator.mission_status import (
    ConditionBuilder,
    allowed_pods,
    mission_status,
    runs_on_cpu,
)
from bem_fleet.services.orchestrator.rollout import CHANGES, WEIGHT, CanaryAdvice, Rollout
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.unreadable import (
    UNREADABLE,
    UnreadableMission,
    describe,
    unreadable_patch,
)
from fleet import logs
from prometheus_client import Counter, Gauge, Histogram

_LOG = logs.get("orchestrator")
Products: TypeAlias = Mapping[str, str]
"""Product of each node that has GPUs, by node name."""
# A field manager of its own: the placement's apply would give the number up again.
_REPLICAS_MANAGER = "bem-replicas"
# Pause after a failed write, so that an API server in trouble is not flooded.
_ERROR_BACKOFF_S = 0.2
_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RECONCILE = Histogram(
    "bem_orchestrator_reconcile_seconds",
    "Time to reconcile all missions once.",
    buckets=_BUCKETS,
)
SOLVE = Histogram(
    "bem_orchestrator_solve_seconds", "Time to solve the GPU assignment.", buckets=_BUCKETS
)
MISSIONS = Gauge("bem_orchestrator_missions", "Missions by phase.", ["phase"])
ASSIGNED = Gauge("bem_orchestrator_gpus_assigned", "GPUs by mission.", ["mission", "product"])
UNMET = Gauge(
    "bem_orchestrator_gpu_requests_unmet", "GPU requests that are not fully met.", ["reason"]
)
DISPLACED = Counter("bem_orchestrator_pods_displaced_total", "Pods whose GPUs changed.", ["how"])
UNREAD = Gauge("bem_orchestrator_missions_unreadable", "Missions that cannot be read.")
FAILED = Counter("bem_orchestrator_writes_failed_total", "Failed writes, retried.", ["kind"])


class Reconciler:
    """Reconciles all missions; runs on the leader only.

    Args:
        api: Connection to the API server.
        view: Informers of the cluster.
        advice: Canary analysis and adapter readiness.
        settings: Intervals and limits.
    """

    def __init__(
        self, api: KubeApi, view: ClusterView, advice: CanaryAdvice, settings: OrchestratorSettings
    ) -> None:
        self._api, self._view, self._settings = api, view, settings
        self._rollout = Rollout(api, view, advice, settings.canary_drain_s)
        self._writes = asyncio.Semaphore(settings.max_concurrent_writes)
        self._solved_for: tuple[object, ...] | None = None
        self._plan = AssignmentPlan()
        self._resync_needed = False

    async def run(self) -> None:
        """Reconcile at every change, and periodically while a canary runs, until cancelled."""
        await self._view.synced()
        changed = self._view.changed
        changed.set()
        while True:
            with suppress(TimeoutError):  # the resync interval: steps of a canary end by time
                interval = self._settings.canary_resync_s if self._resync_needed else None
                async with asyncio.timeout(interval):
                    await changed.wait()
            await asyncio.sleep(self._settings.debounce_s)
            changed.clear()
            with RECONCILE.time():
                await self.reconcile_all()

    async def reconcile_all(self) -> None:
        """Reconcile every mission once."""
        missions = self._view.list_missions()
        nodes = self._view.gpu_nodes()
        plan = self._solve_if_changed(missions, nodes)
        products = {node.name: node.product for node in nodes}
        self._resync_needed = False
        results = await asyncio.gather(
            *(
                self._safely(mission.key, self._reconcile_mission(mission, plan, products), mission)
                for mission in missions
            ),
            *(self._safely(one.key, self._report(one)) for one in self._view.unreadable_missions()),
            *(
                self._safely(object_key(one), self._release(one))
                for one in self._view.abandoned_deployments()
            ),
        )
        if not all(results):
            # A dropped write needs another pass even if no further event arrives.
            self._resync_needed = True
            self._view.changed.set()
            await asyncio.sleep(self._settings.debounce_s)
        _update_metrics(missions, plan, products)
        UNREAD.set(len(self._view.unreadable_missions()))

    def _solve_if_changed(
        self, missions: Sequence[Mission], nodes: Sequence[GpuNode]
    ) -> AssignmentPlan:
        """Return the plan; solved again only if its inputs differ from those of the last pass."""
        active = [mission for mission in missions if not mission.deleted]
        requests = [request for mission in active for request in _gpu_requests(mission)]
        closed = {node.name for node in nodes if node.closed}
        current = {
            key: self._still_there(mission, key, pods, closed)
            for mission in active
            for key, pods in mission.placed.items()
        }
        inputs = (requests, list(nodes), current)
        if inputs != self._solved_for:
            with SOLVE.time():
                self._plan = solve(requests, nodes, current)
            self._solved_for = inputs
            for how, counts in (("evicted", self._plan.evicted), ("moved", self._plan.moved)):
                DISPLACED.labels(how).inc(sum(counts.values()))
        return self._plan

    def _still_there(
        self, mission: Mission, key: str, pods: PodsByNode, closed: AbstractSet[str]
    ) -> PodsByNode:
        """Return a placement without the pods that have left closed nodes.

        A pod that runs on a cordoned node stays. One that was drained from it must not come back,
        because it would never be scheduled there.
        """
        if not closed & pods.keys() or not mission.gpu_requests:
            return pods
        own = mission.gpu_requests[0].key
        track = {own: "stable", f"{own}-canary": "canary"}.get(key)
        running = self._view.running_pods(mission, track) if track else None
        if running is None:
            return pods
        left = {
            name: min(count, running.get(name, 0)) if name in closed else count
            for name, count in pods.items()
        }
        return {name: count for name, count in left.items() if count}

    async def _safely(
        self, key: str, work: Coroutine[None, None, None], mission: Mission | None = None
    ) -> bool:
        """Do the work for one object; returns False if it has to be repeated soon.

        An error of one object must not stop the others, so it is counted and logged here. A mission
        whose content is the error is reported in its status, and repeated only when it changes.
        """
        async with self._writes:
            try:
                await work
            except ConflictError:
                FAILED.labels("conflict").inc()
                return False
            except KubeError as err:
                FAILED.labels(type(err).__name__).inc()
                _LOG.warning("not reconciled", object=key, reason=str(err)[:300])
                await asyncio.sleep(_ERROR_BACKOFF_S)
                return False
            except UNREADABLE as err:
                FAILED.labels("unreadable").inc()
                _LOG.warning("not reconciled", object=key, reason=describe(err), exc_info=True)
                if mission is not None:
                    self._view.mark_unreadable(mission.raw, err)
        return True

    async def _report(self, mission: UnreadableMission) -> None:
        """State in a Mission that it cannot be read, by a condition and an Event."""
        path = mission_path(mission.raw)
        finalizers = mission.raw["metadata"].get("finalizers") or []
        if RETIRED_FINALIZER in finalizers:
            kept = [name for name in finalizers if name != RETIRED_FINALIZER]
            await self._api.patch(path, {"metadata": {"finalizers": kept or None}}, "merge")
        if body := unreadable_patch(mission):
            written = await self._api.patch(f"{path}/status", body, "merge")
            self._view.missions.apply_write(written)
            note = body["status"]["conditions"][-1]["message"]
            await events.record_of(self._api, mission.raw, "Unreadable", note, warning=True)

    async def _release(self, deployment: Object) -> None:
        """Give back a Deployment whose Mission is gone; a canary's is deleted with its owner."""
        metadata = deployment["metadata"]
        path = workloads.deployment_path(metadata["namespace"], metadata["name"])
        released = await self._api.patch(path, workloads.release_patch(deployment), "apply")
        self._view.deployments.apply_write(released)

    async def _reconcile_mission(
        self, mission: Mission, plan: AssignmentPlan, products: Products
    ) -> None:
        finalizers = mission.raw["metadata"].get("finalizers") or []
        if RETIRED_FINALIZER in finalizers:
            # What it waited for follows from the objects alone: it would only keep a namespace.
            kept = [name for name in finalizers if name != RETIRED_FINALIZER]
            mission = await self._patch_metadata(mission, {"finalizers": kept or None})
        if mission.deleted:
            return
        if mission.newer_replicas is not None:
            mission = await self._apply_replicas(mission, mission.newer_replicas)
        state, gate = self._rollout.next_state(mission)
        deployment = self._view.deployment(mission, mission.workload)
        builder = ConditionBuilder(mission)
        add_canary_conditions(builder, mission, state, deployment)
        status = mission_status(mission, plan, products, deployment, builder=builder)
        stable = workloads.stable_snapshot(mission, deployment)
        canary = canary_status_patch(
            mission.canary_status, state, mission.canary, gate=gate, stable=stable
        )
        if canary:
            status["canary"] = canary
        if any(mission.status.get(key) != value for key, value in status.items()):
            await self._write_status(mission, status, state, plan)
        # Cleared only after the state that follows from it is written: a crash in between repeats
        # the command, which is idempotent, instead of losing it.
        if mission.command:
            await self._clear_command(mission)
        if deployment is not None and not workloads.workload_problem(mission, deployment)[0]:
            await self._apply_placement(mission, deployment, plan, products)
        await self._rollout.ensure_objects(mission, state, plan)
        if not state.phase.is_final or self._rollout.has_leftovers(mission, state):
            self._resync_needed = True

    async def _write_status(
        self, mission: Mission, status: Object, state: CanaryState, plan: AssignmentPlan
    ) -> None:
        """Write the status at the version that was read, then record Events of the changes."""
        version = mission.raw["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": status}
        written = await self._api.patch(f"{mission.path}/status", body, "merge")
        # The next pass must not decide by the status that has just been replaced.
        self._view.missions.apply_write(written)
        mission.raw["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"]
        before = mission.canary_status.state
        if (state.phase, state.step) != (before.phase, before.step):
            CHANGES.labels(state.phase.value).inc()
            note = f"{state.phase}, weight {state.weight} %: {state.reason}"
            reason, warning = f"Canary{state.phase}", "Rolled" in state.phase
            await events.record(self._api, mission, reason, note, warning=warning)
        await self._emit_condition_events(mission, status, plan)

    async def _emit_condition_events(
        self, mission: Mission, status: Object, plan: AssignmentPlan
    ) -> None:
        """Record an Event for each condition that has changed, and for preempted pods."""
        old = {c["type"]: c for c in mission.status.get("conditions") or ()}
        for condition in status["conditions"]:
            kind, now = condition["type"], (condition["status"], condition["reason"])
            before = old.get(kind, {})
            if (before.get("status"), before.get("reason")) == now:
                continue
            is_good = condition["status"] == ("False" if kind == "Conflict" else "True")
            # A new mission with all good conditions needs no Events.
            if before or not is_good:
                note = f"{kind} {condition['status']}: {condition['message']}"
                reason = condition["reason"]
                await events.record(self._api, mission, reason, note, warning=not is_good)
        for request in mission.gpu_requests:
            if request.key in plan.evicted:
                pods = plan.evicted[request.key]
                note = f"{request.key}: {pods} pods were preempted by a higher class"
                await events.record(self._api, mission, "Preempted", note, warning=True)

    async def _clear_command(self, mission: Mission) -> None:
        """Remove the command's annotation; its condition says what became of it."""
        await self._patch_metadata(mission, {"annotations": {COMMAND: None}})

    async def _apply_replicas(self, mission: Mission, replicas: int) -> Mission:
        """Set the number of pods that the chart's values want, and record it."""
        annotations = mission.raw["metadata"]["annotations"]
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Mission",
            "metadata": {
                "name": mission.name,
                "resourceVersion": mission.raw["metadata"]["resourceVersion"],
                "annotations": {APPLIED_REPLICAS: annotations[VALUES_REPLICAS]},
            },
            "spec": {"replicas": replicas},
        }
        # An apply owns the number even where it is the same, so that it stays when the chart, which
        # rendered it in earlier versions, gives it up.
        written = await self._api.patch(mission.path, body, "apply", fieldManager=_REPLICAS_MANAGER)
        self._view.missions.apply_write(written)
        return self._view.get_mission(mission.key) or mission

    async def _patch_metadata(self, mission: Mission, metadata: Object) -> Mission:
        version = mission.raw["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version, **metadata}}
        written = await self._api.patch(mission.path, body, "merge")
        self._view.missions.apply_write(written)
        return self._view.get_mission(mission.key) or mission

    async def _apply_placement(
        self, mission: Mission, deployment: Object, plan: AssignmentPlan, products: Products
    ) -> None:
        """Apply replicas, node selector, GPU limit and priority class if they differ."""
        cpu = runs_on_cpu(mission, products)
        placed = {} if cpu else plan.placed.get(mission.gpu_requests[0].key, {})
        product = next((products[name] for name in placed if name in products), "")
        prefix = self._settings.priority_class_prefix
        patch = workloads.placement_patch(
            mission,
            placed,
            product,
            replicas=allowed_pods(mission, plan, products),
            priority_class=f"{prefix}{mission.priority.name.lower()}" if prefix else "",
            tolerations=deployment["spec"]["template"]["spec"].get("tolerations") or (),
        )
        if not workloads.has_placement(deployment, patch):
            path = workloads.deployment_path(mission.namespace, mission.workload)
            applied = await self._api.patch(path, patch, "apply")
            self._view.deployments.apply_write(applied)


def _gpu_requests(mission: Mission) -> list[GpuRequest]:
    """Return a mission's GPU requests, including its canary's until that has ended."""
    request, state = mission.canary_gpu_request, mission.canary_status.state
    has_ended = (
        mission.canary is not None and state.id == mission.canary.id and state.phase.is_final
    )
    return [*mission.gpu_requests, *([request] if request and not has_ended else [])]


def _update_metrics(missions: Sequence[Mission], plan: AssignmentPlan, products: Products) -> None:
    for gauge in (MISSIONS, ASSIGNED, UNMET):
        gauge.clear()
    for mission in missions:
        MISSIONS.labels(mission.phase).inc()
        WEIGHT.labels(mission.name).set(mission.canary_status.state.weight)
        for request in mission.gpu_requests:
            for node, pods in plan.placed.get(request.key, {}).items():
                ASSIGNED.labels(mission.name, products.get(node, "")).inc(pods * request.gpus)
    for unmet in plan.unmet.values():
        UNMET.labels(unmet.reason.value).inc()
