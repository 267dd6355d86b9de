"""Assignment benchmark: time of a plan, and its distance from the optimum."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    GpuRequest,
    PodsByNode,
    Priority,
)
from bem_fleet.services.orchestrator.assignment.solver import solve

from benchmarks.orchestrator.exact import best
from benchmarks.orchestrator.instances import fleet

SIZES = ((10, 10), (100, 1000), (1000, 5000))
LOADS = (0.7, 1.3)
SMALL = ((10, 4), (20, 8), (40, 16))


def placed(plan: AssignmentPlan, requests: Sequence[GpuRequest]) -> dict[Priority, int]:
    """Return the GPUs in use by class."""
    found = dict.fromkeys(Priority, 0)
    for request in requests:
        found[request.priority] += request.gpus * sum(plan.placed.get(request.key, {}).values())
    return found


def times(repeats: int = 10) -> list[dict[str, Any]]:
    """Return times of plans from scratch, after the loss of a node, and with a new request."""
    rows = []
    for missions, nodes in SIZES:
        for load in LOADS:
            cold, lost, came = [], [], []
            for seed in range(repeats):
                requests, there = fleet(seed, missions, nodes, load)
                plan, seconds = _timed(requests[:-1], there, {})
                cold.append(seconds)
                lost.append(_timed(requests[:-1], there[1:], plan.placed)[1])
                came.append(_timed(requests, there, plan.placed)[1])
            rows.append(
                {
                    "missions": missions,
                    "nodes": nodes,
                    "load": load,
                    **{
                        f"{name}_p{q}_ms": round(1000 * float(np.percentile(values, q)), 1)
                        for name, values in (
                            ("cold", cold),
                            ("node_lost", lost),
                            ("newcomer", came),
                        )
                        for q in (50, 95)
                    },
                }
            )
    return rows


def optimality(seeds: int = 30, limit_s: float = 0.5) -> list[dict[str, Any]]:
    """Return how often the plan is the lexicographic optimum, and how close it is otherwise."""
    rows = []
    for missions, nodes in SMALL:
        same = proven = ours = most = 0
        classes = dict.fromkeys(Priority, 0)
        seconds: list[float] = []
        exact_s: list[float] = []
        for seed in range(seeds):
            requests, there = fleet(seed, missions, nodes, 1.3)
            plan, took = _timed(requests, there, {})
            began = time.perf_counter()
            optimum = best(requests, there, limit_s)
            if optimum is None:
                continue
            exact_s.append(time.perf_counter() - began)
            seconds.append(took)
            found = placed(plan, requests)
            proven += 1
            same += found == optimum
            ours += sum(found.values())
            most += sum(optimum.values())
            for one in Priority:
                classes[one] += optimum[one] - found[one]
        rows.append(
            {
                "missions": missions,
                "nodes": nodes,
                "instances_proven": proven,
                "same_as_optimum": same,
                "gpus_of_optimum": round(ours / most, 4),
                **{f"short_{one.name.lower()}": n for one, n in classes.items()},
                "gpus_in_optimum": most,
                "ms_ours": round(1000 * float(np.median(seconds)), 2),
                "ms_exact": round(1000 * float(np.median(exact_s)), 1),
            }
        )
    return rows


def _timed(
    requests: Sequence[GpuRequest], nodes: Sequence[Any], held: Mapping[str, PodsByNode]
) -> tuple[AssignmentPlan, float]:
    began = time.perf_counter()
    plan = solve(requests, nodes, held)
    return plan, time.perf_counter() - began
