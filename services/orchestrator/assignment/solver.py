"""GPU assignment solver: priority order, best fit, one step of migration or preemption.

Requests are served from the highest class to the lowest. Pods that still have valid GPUs keep them.
A pod that finds no free GPU is placed in the least disruptive way: pods of its class or below
migrate to free GPUs elsewhere; otherwise pods of a lower class are preempted, the lowest class
first and as few GPUs as possible. Critical pods are neither migrated nor preempted. Preempted
pods are served again in their own turn.

Packing pods of several GPUs is NP-hard; this is a greedy search with one step of repair. Its
distance from the exact optimum is measured in ``results/bench_orchestrator.md``.

Example: node ``a`` has 4 H100 and node ``b`` has 2. ``sep`` (medium, 1 pod of 1 GPU) sits on ``a``,
``memory`` (medium, 1 pod of 2 GPUs) sits on ``b``. Now ``router`` (high) requests 1 pod of 4 GPUs:

1. Direct placement fails: ``a`` has 3 free GPUs, ``b`` has none.
2. Migration: ``a`` is short of 1 GPU; ``sep`` could move, but ``b`` has no free GPU. It fails.
3. Preemption: evicting ``sep`` (medium, 1 GPU) frees ``a``; it is the cheapest set of victims.

``router`` gets ``a``. In the next pass ``sep`` finds no GPU and is reported as ``Overbooked``. Had
``memory`` used 1 GPU only, step 2 would have moved ``sep`` to ``b`` and nobody had been evicted.
"""

from collections.abc import Iterable, Mapping, Sequence

from bem_fleet.services.orchestrator.assignment.capacity import GpuCapacity
from bem_fleet.services.orchestrator.assignment.explain import UnmetExplainer
from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    AssignmentPlan,
    GpuRequest,
    PodsByNode,
    Priority,
)
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode, NodeKind

# Bounds of the worst case: nodes examined for one repair, and passes until nothing changes.
_MAX_NODES_EXAMINED = 64
_MAX_PASSES = 4

Victims = list[GpuRequest]


def solve(
    requests: Iterable[GpuRequest], nodes: Iterable[GpuNode], current: Mapping[str, PodsByNode]
) -> AssignmentPlan:
    """Assign GPUs to all requests.

    Args:
        requests: All GPU requests of the fleet, with unique keys.
        nodes: All nodes that have GPUs; pods on closed ones stay, and no new one comes.
        current: Pods by node of each request in the last plan; placements that are no longer
            possible are dropped.

    Returns:
        The plan. Solving again with ``plan.placed`` as ``current`` changes nothing.
    """
    ordered = sorted(
        requests, key=lambda request: (-request.priority, request.created, request.key)
    )
    capacity = GpuCapacity(nodes)
    solver = _Solver(capacity)
    # Current placements are restored before anything new is placed: a request that is satisfied
    # must not be disturbed because a newcomer happened to be served first.
    for request in ordered:
        solver.restore(request, current.get(request.key, {}))
    capacity.close_nodes()
    queue = sorted(ordered, key=solver.service_order)
    # A pod preempted in one pass may still fit elsewhere, so passes repeat until nothing changes.
    for _ in range(_MAX_PASSES):
        before = {key: dict(pods) for key, pods in capacity.placed.items()}
        for request in queue:
            solver.place_missing_pods(request)
        if capacity.placed == before:
            break
    return _plan(ordered, capacity, current)


class _Solver:
    def __init__(self, capacity: GpuCapacity) -> None:
        self._capacity = capacity
        self._kinds: dict[tuple[object, ...], list[NodeKind]] = {}
        self._nodes_of: dict[NodeKind, list[str]] = {}
        self._failed_at: dict[tuple[object, ...], int] = {}
        for node in sorted(capacity.nodes.values(), key=lambda node: node.name):
            if not node.closed:
                self._nodes_of.setdefault(node.kind, []).append(node.name)

    def restore(self, request: GpuRequest, current: PodsByNode) -> None:
        """Place pods where they are now; all pods of a request stay on one product."""
        capacity = self._capacity
        product = ""
        for name, pods in sorted(current.items()):
            node = capacity.nodes.get(name)
            if node is None or not capacity.could_host(request, node):
                continue
            if product not in ("", node.product):
                continue
            for _ in range(pods):
                wanted = capacity.placed_pods(request) < request.pods
                if wanted and capacity.has_room(request, name):
                    capacity.allocate(request, name)
                    product = node.product

    def service_order(self, request: GpuRequest) -> tuple[object, ...]:
        """Sort key: class, then fewest suitable nodes, then most GPUs, then age.

        Requests with few suitable nodes go first because others can use what is left; large ones
        go before small ones because small ones fit into the gaps.
        """
        suitable = sum(len(self._nodes_of[kind]) for kind in self.suitable_kinds(request))
        total = request.gpus * request.pods
        return (
            -request.priority, suitable, -request.gpus, -total, request.created, request.key
        )  # fmt: skip

    def suitable_kinds(self, request: GpuRequest) -> list[NodeKind]:
        """Return the kinds of nodes that could host the request, the best first."""
        signature = (
            request.products,
            request.memory_gib,
            request.gpus,
            request.device,
            bool(request.shares_with),
        )
        if signature not in self._kinds:
            self._kinds[signature] = sorted(
                (kind for kind in self._nodes_of if self._kind_is_suitable(request, kind)),
                key=lambda kind: self._preference(request, kind),
            )
        return self._kinds[signature]

    def place_missing_pods(self, request: GpuRequest) -> None:
        """Place the pods of ``request`` that have no GPUs, as many as possible."""
        capacity = self._capacity
        while capacity.placed_pods(request) < request.pods:
            kinds = self._candidate_kinds(request)
            # A search that failed for an equal request fails again while the capacity is
            # unchanged; without this memo 1,000 missions on a full cluster cost 1,000 searches.
            signature = (
                request.priority,
                request.products,
                request.memory_gib,
                request.gpus,
                *kinds,
            )
            is_generic = not (
                request.shares_with or request.device or request.key in capacity.placed
            )
            if is_generic and self._failed_at.get(signature) == capacity.version:
                return
            placed = any(
                self._place_on_free_gpus(request, kind) or self._place_by_migration(request, kind)
                for kind in kinds
            ) or any(self._place_by_preemption(request, kind) for kind in kinds)
            if not placed:
                if is_generic:
                    self._failed_at[signature] = capacity.version
                return

    def _candidate_kinds(self, request: GpuRequest) -> list[NodeKind]:
        """Return the kinds for the next pod: all pods of a request use one product.

        Pods of one Deployment share one node selector for the product, so the first pod decides;
        for a request of several pods, the product that can host most of them comes first.
        """
        capacity = self._capacity
        kinds = self.suitable_kinds(request)
        if by_node := capacity.placed.get(request.key):
            product = capacity.nodes[next(iter(by_node))].product
            return [kind for kind in kinds if kind[0] == product]
        if request.pods == 1:
            return kinds
        fitting: dict[str, int] = {}
        for kind in kinds:
            fitting[kind[0]] = fitting.get(kind[0], 0) + capacity.pods_that_fit(request, kind)
        return sorted(kinds, key=lambda kind: -min(request.pods, fitting[kind[0]]))

    def _kind_is_suitable(self, request: GpuRequest, kind: NodeKind) -> bool:
        nodes = self._capacity.nodes
        return any(self._capacity.could_host(request, nodes[n]) for n in self._nodes_of[kind])

    def _preference(self, request: GpuRequest, kind: NodeKind) -> tuple[object, ...]:
        """Sort key: preferred product, then matching sharing mode, then the smallest GPU."""
        product, memory, pods_per_gpu = kind
        rank = request.product_rank(product) or 0
        wrong_sharing = (pods_per_gpu > 1) != bool(request.shares_with)
        return rank, wrong_sharing, memory, product

    def _place_on_free_gpus(self, request: GpuRequest, kind: NodeKind) -> bool:
        capacity = self._capacity
        name: str | None
        if request.device:
            name = capacity.device_nodes.get(request.device)
            if name is None or capacity.nodes[name].kind != kind:
                return False
            if not capacity.has_room(request, name):
                return False
        else:
            name = capacity.best_fit_node(request, kind)
        if name is None:
            return False
        capacity.allocate(request, name)
        return True

    def _place_by_migration(self, request: GpuRequest, kind: NodeKind) -> bool:
        """Make room on one node: move pods of its class or below to free GPUs elsewhere."""
        if kind[2] > 1 or request.device:
            return False
        names = self._capacity.nodes_short_of(request, kind, _MAX_NODES_EXAMINED)
        return any(self._migrate_and_place(request, name) for name in names)

    def _migrate_and_place(self, request: GpuRequest, name: str) -> bool:
        capacity = self._capacity
        if capacity.nodes[name].gpus < request.gpus:
            return False
        # The smallest pods move first: each finds another node most easily.
        movable = sorted(
            (
                (other.gpus, other.key, other)
                for other, pods in capacity.occupants(name)
                for _ in range(pods)
                if other.key != request.key
                and other.priority <= request.priority
                and other.priority is not Priority.CRITICAL
                and not other.device
            ),
            key=lambda entry: entry[:2],
        )
        migrated: list[tuple[GpuRequest, str]] = []
        for _, _, other in movable:
            if capacity.has_room(request, name):
                break
            if target := self._migration_target(other, name):
                capacity.release(other, name)
                capacity.allocate(other, target)
                migrated.append((other, target))
        if capacity.has_room(request, name):
            capacity.allocate(request, name)
            return True
        # Not enough: undo in reverse order, so that each step finds the room that it left.
        for other, target in reversed(migrated):
            capacity.release(other, target)
            capacity.allocate(other, name)
        return False

    def _migration_target(self, other: GpuRequest, name: str) -> str | None:
        """Return another node for a pod; of the same product if the request has more pods."""
        capacity = self._capacity
        product = capacity.nodes[name].product
        for kind in self.suitable_kinds(other):
            if kind[0] != product and capacity.placed_pods(other) > 1:
                continue
            if target := capacity.best_fit_node(other, kind, skip=name):
                return target
        return None

    def _place_by_preemption(self, request: GpuRequest, kind: NodeKind) -> bool:
        """Evict the cheapest pods of lower classes from one node and place the pod there."""
        capacity = self._capacity
        best: tuple[tuple[int, int, int], str, Victims] | None = None
        examined = 0
        for below, name in capacity.nodes_below(kind[0], request.priority):
            # Nodes come by class: once a set of victims is known, a higher class costs more.
            if best and (below > best[0][0] or examined >= _MAX_NODES_EXAMINED):
                break
            node = capacity.nodes[name]
            if node.kind != kind or not capacity.could_host(request, node):
                continue
            examined += 1
            victims = self._choose_victims(request, name, below)
            if victims is not None:
                cost = (below, sum(v.gpus for v in victims), len(victims))
                if best is None or cost < best[0]:
                    best = cost, name, victims
        if best is None:
            return False
        _, name, victims = best
        for victim in victims:
            capacity.release(victim, name)
        capacity.allocate(request, name)
        return True

    def _choose_victims(self, request: GpuRequest, name: str, highest: Priority) -> Victims | None:
        """Return pods up to class ``highest`` to evict from ``name``; None if they do not suffice.

        The capacity is unchanged on return: pods are released and allocated again as a trial.
        """
        capacity = self._capacity
        chosen: Victims = []
        candidates = sorted(
            (
                (other.priority, -other.created, -other.gpus, other.key, other)
                for other, pods in capacity.occupants(name)
                for _ in range(pods)
                if other.priority <= highest
            ),
            key=lambda entry: entry[:4],
        )
        for *_, other in candidates:
            if capacity.has_room(request, name):
                break
            capacity.release(other, name)
            chosen.append(other)
        enough = capacity.has_room(request, name)
        # One large pod chosen late may have made smaller ones needless: spare those.
        for other in list(chosen):
            capacity.allocate(other, name)
            if enough and capacity.has_room(request, name):
                chosen.remove(other)
            elif enough:
                capacity.release(other, name)
        if not enough:
            return None
        for other in chosen:
            capacity.allocate(other, name)
        return chosen


def _plan(
    ordered: Sequence[GpuRequest], capacity: GpuCapacity, current: Mapping[str, PodsByNode]
) -> AssignmentPlan:
    """Return the plan, with every difference from the current placement counted."""
    placed = {key: dict(sorted(pods.items())) for key, pods in sorted(capacity.placed.items())}
    explainer = UnmetExplainer(capacity)
    evicted: dict[str, int] = {}
    moved: dict[str, int] = {}
    unmet = {}
    for request in ordered:
        old, new = current.get(request.key, {}), placed.get(request.key, {})
        before = min(sum(old.values()), request.pods)
        kept = sum(min(pods, new.get(name, 0)) for name, pods in old.items())
        count = sum(new.values())
        if count < before:
            evicted[request.key] = before - count
        if (relocated := min(before, count) - kept) > 0:
            moved[request.key] = relocated
        if count < request.pods:
            unmet[request.key] = explainer.explain(request, request.pods - count)
    return AssignmentPlan(placed, unmet, evicted, moved)
