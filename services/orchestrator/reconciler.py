"""Makes the cluster what the missions ask for; level-triggered, idempotent, from caches only.

Each round reads the caches, makes one plan for all missions, and writes what differs. A write
that meets a newer object is dropped: the change that made it newer wakes the next round. Killed
at any point, the next leader finds in the missions' status all that it needs.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from bem_fleet.services.orchestrator import events, workloads
from bem_fleet.services.orchestrator.assignment.claims import Claim, Holding, Plan
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.assignment.solver import solve
from bem_fleet.services.orchestrator.canary import record
from bem_fleet.services.orchestrator.canary.machine import COMMANDS, State
from bem_fleet.services.orchestrator.kube.api import Api, ConflictError, KubeError, Object
from bem_fleet.services.orchestrator.mission import COMMAND, FINALIZER, Mission
from bem_fleet.services.orchestrator.rollout import CHANGES, WEIGHT, Advice, Rollout
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.status import on_cpu, pods_allowed, status_of
from bem_fleet.services.orchestrator.view import View
from fleet import logs
from prometheus_client import Counter, Gauge, Histogram

_LOG = logs.get("orchestrator")
Products: TypeAlias = Mapping[str, str]
"""Product of each node that has GPUs."""
_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROUND = Histogram("bem_orchestrator_round_seconds", "Time of a round.", buckets=_BUCKETS)
SOLVE = Histogram("bem_orchestrator_solve_seconds", "Time to make a plan.", buckets=_BUCKETS)
MISSIONS = Gauge("bem_orchestrator_missions", "Missions by phase.", ["phase"])
ASSIGNED = Gauge("bem_orchestrator_gpus_assigned", "GPUs by mission.", ["mission", "product"])
REFUSED = Gauge("bem_orchestrator_claims_refused", "Claims that lack GPUs, by reason.", ["reason"])
MOVES = Counter("bem_orchestrator_pods_displaced_total", "Pods whose GPUs changed.", ["how"])
FAILED = Counter("bem_orchestrator_writes_failed_total", "Writes to be done again.", ["kind"])


class Reconciler:
    """The leader's work.

    Args:
        api: The API server.
        view: Its caches.
        advice: Of the gate and the missions.
        settings: Pace and limits.
    """

    def __init__(
        self, api: Api, view: View, advice: Advice, settings: OrchestratorSettings
    ) -> None:
        self._api, self._view, self._settings = api, view, settings
        self._rollout = Rollout(api, view, advice, settings.drain_canary_s)
        self._writers = asyncio.Semaphore(settings.writers)
        self._asked: tuple[object, ...] | None = None
        self._plan = Plan()
        self._timed = False

    async def run(self) -> None:
        """Reconcile for ever."""
        await self._view.synced()
        changed = self._view.changed
        changed.set()
        while True:
            with suppress(TimeoutError):  # a tick: time alone moves some missions
                async with asyncio.timeout(self._settings.tick_s if self._timed else None):
                    await changed.wait()
            await asyncio.sleep(self._settings.settle_s)
            changed.clear()
            with ROUND.time():
                await self.round()

    async def round(self) -> None:
        """Look at everything once and write what differs."""
        missions = sorted(self._view.missions, key=lambda one: one.key)
        nodes = self._view.gpu_nodes()
        plan = self._planned(missions, nodes)
        products = {node.name: node.product for node in nodes}
        self._timed = False
        results = await asyncio.gather(
            *(self._guarded(mission, plan, products) for mission in missions)
        )
        if not all(results):
            self._timed = True
            self._view.changed.set()
            await asyncio.sleep(self._settings.settle_s)
        _measure(missions, plan, products)

    def _planned(self, missions: Sequence[Mission], nodes: Sequence[GpuNode]) -> Plan:
        live = [one for one in missions if not one.deleted]
        claims = [claim for one in live for claim in _claims(one)]
        held: dict[str, Holding] = {k: v for one in live for k, v in one.held.items()}
        asked = (claims, list(nodes), held)
        if asked != self._asked:
            with SOLVE.time():
                self._plan = solve(claims, nodes, held)
            self._asked = asked
            for how, counts in (("evicted", self._plan.evicted), ("moved", self._plan.moved)):
                MOVES.labels(how).inc(sum(counts.values()))
        return self._plan

    async def _guarded(self, mission: Mission, plan: Plan, products: Products) -> bool:
        """Reconcile one mission; returns False if it has to be tried again soon."""
        async with self._writers:
            try:
                await self._one(mission, plan, products)
            except ConflictError:
                FAILED.labels("conflict").inc()
                return False
            except KubeError as err:
                FAILED.labels(type(err).__name__).inc()
                _LOG.warning("not reconciled", mission=mission.key, reason=str(err)[:300])
                await asyncio.sleep(0.2)
                return False
        return True

    async def _one(self, mission: Mission, plan: Plan, products: Products) -> None:
        if mission.deleted:
            await self._let_go(mission)
            return
        if FINALIZER not in (mission.raw["metadata"].get("finalizers") or ()):
            finalizers = [*(mission.raw["metadata"].get("finalizers") or ()), FINALIZER]
            mission = await self._annotate(mission, {"finalizers": finalizers})
        before, state, gate = self._rollout.next(mission)
        deployment = self._view.deployment(mission, mission.workload)
        status = status_of(mission, plan, products, deployment)
        old = mission.status.get("canary") or {}
        stable = workloads.snapshot(mission, deployment)
        canary = record.written(old, before, state, mission.canary, gate=gate, stable=stable)
        if canary:
            status["canary"] = canary
        if any(mission.status.get(key) != value for key, value in status.items()):
            await self._write(mission, status, before, state, plan)
        if mission.command:
            await self._heed(mission)
        if deployment is not None:
            await self._place(mission, deployment, plan, products)
        await self._rollout.ensure(mission, state, plan)
        if not state.phase.is_final or self._rollout.lingers(mission, state):
            self._timed = True

    async def _write(
        self, mission: Mission, status: Object, before: State, state: State, plan: Plan
    ) -> None:
        """Write the status of the version that was read, then tell what has changed."""
        version = mission.raw["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": status}
        made = await self._api.patch(f"{mission.path}/status", body, "merge")
        self._view.missions.put(made)
        mission.raw["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        if (state.phase, state.step) != (before.phase, before.step):
            CHANGES.labels(state.phase.value).inc()
            text = f"{state.phase}, weight {state.weight} %: {state.reason}"
            await events.tell(
                self._api, mission, f"Canary{state.phase}", text, warning="Rolled" in state.phase
            )
        await self._tell_changes(mission, status, plan)

    async def _tell_changes(self, mission: Mission, status: Object, plan: Plan) -> None:
        old = {c["type"]: c for c in mission.status.get("conditions") or ()}
        for condition in status["conditions"]:
            was = old.get(condition["type"], {})
            if (was.get("status"), was.get("reason")) == (condition["status"], condition["reason"]):
                continue
            good = condition["status"] == ("False" if condition["type"] == "Conflict" else "True")
            if was or not good:
                text = f"{condition['type']} {condition['status']}: {condition['message']}"
                await events.tell(self._api, mission, condition["reason"], text, warning=not good)
        for claim in mission.claims:
            if claim.key in plan.evicted:
                note = f"{claim.key}: {plan.evicted[claim.key]} pods gave way to a higher class"
                await events.tell(self._api, mission, "Preempted", note, warning=True)

    async def _heed(self, mission: Mission) -> None:
        """Take a command off once the state that follows from it is written."""
        if mission.command not in COMMANDS:
            note = f"{mission.command[:40]!r} is no command; known: {', '.join(COMMANDS)}"
            await events.tell(self._api, mission, "UnknownCommand", note, warning=True)
        await self._annotate(mission, {"annotations": {COMMAND: None}})

    async def _annotate(self, mission: Mission, metadata: Object) -> Mission:
        version = mission.raw["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version, **metadata}}
        made = await self._api.patch(mission.path, body, "merge")
        self._view.missions.put(made)
        fresh = self._view.missions.get(mission.key)
        return fresh or mission

    async def _place(
        self, mission: Mission, deployment: Object, plan: Plan, products: Products
    ) -> None:
        cpu = on_cpu(mission, products)
        held = {} if cpu else plan.placed.get(mission.claims[0].key, {})
        product = next((products[name] for name in held if name in products), "")
        prefix = self._settings.priority_class_prefix
        wanted = workloads.placement(
            mission,
            held,
            product,
            replicas=pods_allowed(mission, plan, products),
            priority_class=f"{prefix}{mission.priority.name.lower()}" if prefix else "",
        )
        if not workloads.is_placed(deployment, wanted) and _has_container(mission, deployment):
            path = workloads.deployment_path(mission.namespace, mission.workload)
            self._view.deployments.put(await self._api.patch(path, wanted, "apply"))

    async def _let_go(self, mission: Mission) -> None:
        """Hand back what the mission had, then let it go."""
        finalizers = mission.raw["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return
        name, namespace = workloads.canary_name(mission), mission.namespace
        if self._view.deployment(mission, name) is not None:
            await self._api.delete(workloads.service_path(namespace, name))
            await self._api.delete(workloads.deployment_path(namespace, name))
        if self._view.deployment(mission, mission.workload) is not None:
            path = workloads.deployment_path(namespace, mission.workload)
            await self._api.patch(path, workloads.released(mission), "apply")
        await self._annotate(
            mission, {"finalizers": [one for one in finalizers if one != FINALIZER]}
        )


def _claims(mission: Mission) -> list[Claim]:
    """Return a mission's claims, its canary's among them while one runs or is to begin."""
    claim = mission.canary_claim
    state = record.read_state(mission.status)
    ended = mission.canary is not None and state.id == mission.canary.id and state.phase.is_final
    return [*mission.claims, *([claim] if claim and not ended else [])]


def _has_container(mission: Mission, deployment: Object) -> bool:
    """To apply limits to a container that is not there would invent one without an image."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return any(one["name"] == mission.container for one in containers)


def _measure(missions: Sequence[Mission], plan: Plan, products: Products) -> None:
    MISSIONS.clear()
    ASSIGNED.clear()
    REFUSED.clear()
    for mission in missions:
        MISSIONS.labels(mission.status.get("phase", "Pending")).inc()
        WEIGHT.labels(mission.name).set(record.read_state(mission.status).weight)
        for claim in mission.claims:
            for node, pods in plan.placed.get(claim.key, {}).items():
                ASSIGNED.labels(mission.name, products.get(node, "")).inc(pods * claim.gpus)
    for refusal in plan.refused.values():
        REFUSED.labels(refusal.reason.value).inc()
