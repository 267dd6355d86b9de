"""Exact assignment by mixed-integer programming: most GPUs in use, class by class."""

from collections.abc import Sequence

import numpy as np
from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array


class Program:
    """Mixed-integer program of an assignment.

    Variables: pods of a request on a node, for each pair that fits, and whether a request uses a
    product, for each that it could use; a request uses one.

    Args:
        requests: Requests for GPUs.
        nodes: Nodes with GPUs.

    Attributes:
        pairs: Index of the request and of the node of each pair that fits.
        size: Number of variables; those of the pairs come first.
    """

    def __init__(self, requests: Sequence[GpuRequest], nodes: Sequence[GpuNode]) -> None:
        self._requests, self._nodes = requests, nodes
        self.pairs = [
            (c, n)
            for c, request in enumerate(requests)
            for n, node in enumerate(nodes)
            if request.product_rank(node.product) is not None
            and node.memory_gib >= request.memory_gib
            and node.gpus >= request.gpus
        ]
        self._uses = sorted({(c, nodes[n].product) for c, n in self.pairs})
        self.size = len(self.pairs) + len(self._uses)

    def constraint(self) -> LinearConstraint:
        """Return the GPUs of each node, the pods and the one product of each request."""
        requests, nodes = self._requests, self._nodes
        pods, product = len(nodes), len(nodes) + len(requests)
        linked = product + len(requests)
        rows = lil_array((linked + len(self._uses), self.size))
        top = np.zeros(rows.shape[0])
        for i, (c, n) in enumerate(self.pairs):
            rows[n, i] = requests[c].gpus
            rows[pods + c, i] = 1
            rows[linked + self._uses.index((c, nodes[n].product)), i] = 1
        for i, (c, _) in enumerate(self._uses):
            at = len(self.pairs) + i
            rows[product + c, at] = 1
            rows[linked + i, at] = -requests[c].pods
        top[:pods] = [node.gpus - node.foreign_units for node in nodes]
        top[pods:product] = [request.pods for request in requests]
        top[product:linked] = 1
        return LinearConstraint(rows.tocsr(), -np.inf, top)

    def bounds(self) -> Bounds:
        """Return the range of each variable."""
        pods = [self._requests[c].pods for c, _ in self.pairs]
        return Bounds(0, np.array([*pods, *[1] * len(self._uses)], dtype=float))

    def gpus_of(self, priority: Priority) -> NDArray[np.float64]:
        """Return the coefficients of the GPUs that a class uses."""
        mine = np.zeros(self.size)
        mine[: len(self.pairs)] = [
            self._requests[c].gpus * (self._requests[c].priority is priority) for c, _ in self.pairs
        ]
        return mine


def best(
    requests: Sequence[GpuRequest], nodes: Sequence[GpuNode], limit_s: float
) -> dict[Priority, int] | None:
    """Return the GPUs of each class in the lexicographic optimum, None without a proof in time."""
    program = Program(requests, nodes)
    if not program.pairs:
        return dict.fromkeys(Priority, 0)
    constraints = [program.constraint()]
    found: dict[Priority, int] = {}
    for priority in sorted(Priority, reverse=True):
        mine = program.gpus_of(priority)
        answer = milp(
            -mine,
            constraints=constraints,
            integrality=np.ones(program.size),
            bounds=program.bounds(),
            options={"time_limit": limit_s, "mip_rel_gap": 0.0},
        )
        if answer.status != 0:
            return None
        found[priority] = round(-answer.fun)
        constraints.append(LinearConstraint(mine[None, :], found[priority], np.inf))
    return found
