"""Reconciling against a real API server, and kube-scheduler on the same fleets."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.assignment.solver import solve
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import connect
from bem_fleet.services.orchestrator.reconciler import Reconciler
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from prometheus_client import REGISTRY

from benchmarks.orchestrator.instances import fleet
from benchmarks.orchestrator.queues import POLICIES
from tests.integration.clusters import ControlPlane, control_plane, deployment, gpu_node
from tests.support.requirements import find

MISSIONS = "/apis/fleet.bem.dev/v1alpha1/namespaces/default/missions"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SIZES = ((10, 10), (100, 1000), (1000, 5000))
_WRITERS = 8


def reconcile() -> list[dict[str, Any]]:
    """Return time and requests of the first passes and of one change, by fleet size."""
    rows = []
    for missions, nodes in SIZES[: int(os.environ.get("BENCH_SIZES", "3"))]:
        with tempfile.TemporaryDirectory() as name, control_plane(Path(name)) as plane:
            _fill(plane, missions, nodes)
            found = asyncio.run(_rounds(missions, str(plane.kubeconfig)))
            rows.append({"missions": missions, "nodes": nodes, **found})
        print(rows[-1], file=sys.stderr)
    return rows


async def _rounds(missions: int, kubeconfig: str) -> dict[str, Any]:
    settings = OrchestratorSettings(priority_class_prefix="")
    api = await connect(kubeconfig)
    view = ClusterView(api, settings)
    analysis = CanaryAnalysisRunner(settings, view, view.changed.set)
    reconciler = Reconciler(api, view, analysis, settings)
    caches = [asyncio.create_task(cache.run()) for cache in view.informers]
    began = time.perf_counter()
    await view.synced()
    synced = time.perf_counter() - began
    before = _requests()
    began = time.perf_counter()
    await reconciler.reconcile_all()
    first = time.perf_counter() - began
    first_requests = _requests() - before
    await _settled(reconciler)
    idle = await _timed(reconciler)
    first_mission = view.list_missions()[0]
    await api.patch(first_mission.path, {"spec": {"replicas": 2}}, "merge")
    while next(m for m in view.list_missions() if m.key == first_mission.key).replicas != 2:
        view.changed.clear()
        await view.changed.wait()
    change = await _timed(reconciler)
    for task in caches:
        task.cancel()
    await asyncio.gather(*caches, return_exceptions=True)
    await analysis.close()
    await api.close()
    return {
        "caches_filled_s": round(synced, 2),
        "first_round_s": round(first, 2),
        "first_round_requests": first_requests,
        "requests_a_mission": round(first_requests / missions, 2),
        "idle_round_ms": round(1000 * idle[0], 1),
        "idle_round_requests": idle[1],
        "one_change_ms": round(1000 * change[0], 1),
        "one_change_requests": change[1],
    }


async def _settled(reconciler: Reconciler) -> None:
    """Reconcile until a pass writes nothing."""
    for _ in range(10):
        await asyncio.sleep(0.5)
        if (await _timed(reconciler))[1] == 0:
            return


async def _timed(reconciler: Reconciler) -> tuple[float, int]:
    before, began = _requests(), time.perf_counter()
    await reconciler.reconcile_all()
    return time.perf_counter() - began, _requests() - before


def _requests() -> int:
    return int(
        sum(
            sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "bem_orchestrator_api_requests_total"
        )
    )


def _fill(plane: ControlPlane, missions: int, nodes: int) -> None:
    requests, there = fleet(1, missions, nodes, 0.7)
    bodies: list[tuple[str, dict[str, Any]]] = [("/api/v1/nodes", _node(one)) for one in there]
    for request in requests:
        bodies.append((DEPLOYMENTS, deployment(request.mission)))
        bodies.append((MISSIONS, _mission(request)))
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda one: plane.call("POST", one[0], one[1]), bodies))


def _node(node: GpuNode) -> dict[str, Any]:
    memory = {"nvidia.com/gpu.memory": str(int(node.memory_gib * 1024))}
    return gpu_node(node.name, node.product, node.gpus, **memory)


def _mission(request: GpuRequest) -> dict[str, Any]:
    gpus: dict[str, Any] = {
        "name": "primary",
        "count": request.gpus,
        "memoryGiB": int(request.memory_gib),
    }
    if request.products:
        gpus["products"] = list(request.products)
    return {
        "apiVersion": "fleet.bem.dev/v1alpha1",
        "kind": "Mission",
        "metadata": {"name": request.mission},
        "spec": {
            "priority": request.priority.name.lower(),
            "replicas": request.pods,
            "gpus": [gpus],
        },
    }


def against_others(seeds: int = 10) -> list[dict[str, Any]]:
    """Return GPUs in use by class: this solver, kube-scheduler, and models of queue managers."""
    totals: dict[str, dict[str, int]] = {}
    for seed in range(seeds):
        requests, nodes = fleet(seed, 20, 8, 1.3)
        plan = solve(requests, nodes, {})
        running: dict[str, Mapping[str, int]] = {
            "orchestrator": {key: sum(held.values()) for key, held in plan.placed.items()}
        }
        for how in ("spread", "pack"):
            with tempfile.TemporaryDirectory() as name, control_plane(Path(name)) as plane:
                running[f"kube-scheduler, {how}"] = _scheduled(plane, requests, nodes, how)
        running |= {name: policy(requests, nodes) for name, policy in POLICIES.items()}
        for who, pods in running.items():
            total = totals.setdefault(who, dict.fromkeys(_COUNTS, 0))
            for name, count in _counts(requests, pods).items():
                total[name] += count
    return [{"who": who, "fleets": seeds, **counts} for who, counts in totals.items()]


_COUNTS = ("gpus_asked", "gpus_used", *(p.name.lower() for p in reversed(Priority)), "whole")


def _counts(requests: list[GpuRequest], pods: Mapping[str, int]) -> dict[str, int]:
    """Return GPUs requested and used, also by class, and missions with all of their pods."""
    counts = dict.fromkeys(_COUNTS, 0)
    for request in requests:
        used = request.gpus * pods.get(request.key, 0)
        counts["gpus_asked"] += request.gpus * request.pods
        counts["gpus_used"] += used
        counts[request.priority.name.lower()] += used
        counts["whole"] += pods.get(request.key, 0) == request.pods
    return counts


def _scheduled(
    plane: ControlPlane, requests: list[GpuRequest], nodes: list[GpuNode], how: str
) -> dict[str, int]:
    """Let kube-scheduler place the same pods, in the order of their missions."""
    for node in nodes:
        plane.call("POST", "/api/v1/nodes", _node(node))
        plane.merge(f"/api/v1/nodes/{node.name}/status", {"status": _node(node)["status"]})
    for priority in Priority:
        plane.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", _class(priority))
    with _scheduler(plane, how):
        for request in requests:
            for index in range(request.pods):
                path = "/api/v1/namespaces/default/pods"
                plane.call("POST", path, _pod(request, index, nodes))
        return _when_still(lambda: _bound(plane))


def _when_still(look: Callable[[], dict[str, int]]) -> dict[str, int]:
    last, since = look(), time.monotonic()
    while time.monotonic() - since < 2.0:
        time.sleep(0.25)
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


def _bound(plane: ControlPlane) -> dict[str, int]:
    """Return the number of bound pods by request key."""
    found: dict[str, int] = {}
    for pod in plane.call("GET", "/api/v1/namespaces/default/pods")["items"]:
        if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
            key = f"default/{pod['metadata']['name'].rpartition('-')[0]}/primary"
            found[key] = found.get(key, 0) + 1
    return found


def _class(priority: Priority) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": f"bem-{priority.name.lower()}"},
        "value": 1000 * priority,
    }


def _pod(request: GpuRequest, index: int, nodes: list[GpuNode]) -> dict[str, Any]:
    """Return a pod that may go to any node whose product and memory will do."""
    suits = sorted(
        {
            node.product
            for node in nodes
            if request.product_rank(node.product) is not None
            and node.memory_gib >= request.memory_gib
        }
    )
    expression = {
        "key": "nvidia.com/gpu.product",
        "operator": "In",
        "values": suits or ["there-is-none"],
    }
    terms = [{"matchExpressions": [expression]}]
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    limits = {"nvidia.com/gpu": str(request.gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{request.mission}-{index}"},
        "spec": {
            "priorityClassName": f"bem-{request.priority.name.lower()}",
            "terminationGracePeriodSeconds": 0,
            "affinity": {"nodeAffinity": affinity},
            "containers": [{"name": "m", "image": "i", "resources": {"limits": limits}}],
        },
    }


@contextmanager
def _scheduler(plane: ControlPlane, how: str) -> Iterator[None]:
    """Run kube-scheduler with its defaults, or packing by GPUs."""
    config: dict[str, Any] = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(plane.kubeconfig)},
    }
    if how == "pack":
        strategy = {
            "type": "MostAllocated",
            "resources": [{"name": "nvidia.com/gpu", "weight": 1}],
        }
        arguments = {"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}
        config["profiles"] = [{"schedulerName": "default-scheduler", "pluginConfig": [arguments]}]
    path = plane.folder / "scheduler.json"
    path.write_text(json.dumps(config))
    log = (plane.folder / "scheduler.log").open("wb")
    command = [find("kube-scheduler") or "kube-scheduler", f"--config={path}", "--secure-port=0"]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
