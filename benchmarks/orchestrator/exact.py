"""Exact assignment by mixed-integer programming: most GPUs in use, class by class."""

from collections.abc import Sequence

import numpy as np
from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array


def best(
    requests: Sequence[GpuRequest], nodes: Sequence[GpuNode], limit_s: float
) -> dict[Priority, int] | None:
    """Return the GPUs of each class in the lexicographic optimum, None without a proof in time.

    Variables: pods of a request on a node, and which product a request uses (one each).
    """
    pairs = [
        (c, n)
        for c, request in enumerate(requests)
        for n, node in enumerate(nodes)
        if request.product_rank(node.product) is not None
        and node.memory_gib >= request.memory_gib
        and node.gpus >= request.gpus
    ]
    if not pairs:
        return dict.fromkeys(Priority, 0)
    products = sorted({node.product for node in nodes})
    uses = sorted({(c, products.index(nodes[n].product)) for c, n in pairs})
    use_at = {use: len(pairs) + i for i, use in enumerate(uses)}
    size = len(pairs) + len(uses)
    rows = lil_array((len(nodes) + 2 * len(requests) + len(uses), size))
    top = np.zeros(rows.shape[0])
    for i, (c, n) in enumerate(pairs):
        rows[n, i] = requests[c].gpus
        rows[len(nodes) + c, i] = 1
        rows[
            len(nodes) + 2 * len(requests) + uses.index((c, products.index(nodes[n].product))), i
        ] = 1
    for n, node in enumerate(nodes):
        top[n] = node.gpus - node.foreign_units
    for c, request in enumerate(requests):
        top[len(nodes) + c] = request.pods
        top[len(nodes) + len(requests) + c] = 1
    for i, (c, _) in enumerate(uses):
        at = use_at[uses[i]]
        rows[len(nodes) + len(requests) + c, at] = 1
        rows[len(nodes) + 2 * len(requests) + i, at] = -requests[c].pods
    constraints = [LinearConstraint(rows.tocsr(), -np.inf, top)]
    high = np.ones(size)
    high[: len(pairs)] = [requests[c].pods for c, _ in pairs]
    found: dict[Priority, int] = {}
    for priority in sorted(Priority, reverse=True):
        mine = np.zeros(size)
        mine[: len(pairs)] = [
            requests[c].gpus * (requests[c].priority is priority) for c, _ in pairs
        ]
        answer = milp(
            -mine,
            constraints=constraints,
            integrality=np.ones(size),
            bounds=Bounds(0, high),
            options={"time_limit": limit_s, "mip_rel_gap": 0.0},
        )
        if answer.status != 0:
            return None
        found[priority] = round(-answer.fun)
        constraints.append(LinearConstraint(mine[None, :], found[priority], np.inf))
    return found
