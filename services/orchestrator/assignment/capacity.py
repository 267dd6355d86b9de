"""GPU capacity bookkeeping: free GPUs by node while an assignment plan is made.

Example: two H100 nodes, ``a`` with 8 GPUs and ``b`` with 4. A request for 4 GPUs goes to ``b``
(``best_fit_node`` returns the node with the fewest free GPUs that suffice), so that ``a`` keeps 8
GPUs together for a request that needs them. After ``allocate(request, "b")`` the heap for level 4
still lists ``b``; ``_peek_valid`` drops that entry when it is met, because ``b`` now has 0 free.
"""

import heapq
from collections.abc import Iterable, Iterator

from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode, NodeKind, device_nodes


class GpuCapacity:
    """Counts free GPUs by node and finds the best-fitting node for a request.

    Nodes of one kind lie in heaps by their number of free GPUs, so that a search costs the number
    of kinds and of distinct free counts, not the number of nodes. A time-sliced GPU belongs to one
    pod, or to pods of missions that all allow sharing with each other.

    Args:
        nodes: All nodes of the cluster that have GPUs.
    """

    def __init__(self, nodes: Iterable[GpuNode]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.device_nodes = device_nodes(self.nodes.values())
        self.placed: dict[str, dict[str, int]] = {}
        self.version = 0
        self._pods_on: dict[str, dict[str, int]] = {name: {} for name in self.nodes}
        self._requests: dict[str, GpuRequest] = {}
        self._free: dict[str, int] = {}
        self._keys_of_mission: dict[str, set[str]] = {}
        self._heaps: dict[NodeKind, dict[int, list[str]]] = {}
        self._levels: dict[NodeKind, dict[int, set[str]]] = {}
        self._device_owners: dict[str, set[str]] = {}
        self._nodes_by_priority: dict[tuple[str, Priority], set[str]] = {}
        self._closed: frozenset[str] = frozenset()
        for node in self.nodes.values():
            used = min(node.foreign_units, 1) if node.is_shared else node.foreign_units
            self._set_free(node.name, max(0, node.assignable_gpus - used))

    def close_nodes(self) -> None:
        """Admit no further pod to nodes that are cordoned or tainted; those there stay."""
        self._closed = frozenset(node.name for node in self.nodes.values() if node.closed)
        for name in self._closed:
            self._set_free(name, 0)

    def free_gpus(self, node: str) -> int:
        """Return the number of unassigned GPUs of ``node``."""
        return self._free[node]

    def occupants(self, node: str) -> Iterator[tuple[GpuRequest, int]]:
        """Yield the requests with pods on ``node`` and the number of those pods."""
        for key, pods in self._pods_on[node].items():
            yield self._requests[key], pods

    def nodes_below(self, product: str, priority: Priority) -> Iterator[tuple[Priority, str]]:
        """Yield nodes of ``product`` with pods of a class below ``priority``, lowest first."""
        for below in Priority:
            if below >= priority:
                return
            names = self._nodes_by_priority.get((product, below), set())
            for name in sorted(names - self._closed):
                yield below, name

    def placed_pods(self, request: GpuRequest) -> int:
        """Return the number of pods of ``request`` that are placed."""
        return sum(self.placed.get(request.key, {}).values())

    def could_host(self, request: GpuRequest, node: GpuNode) -> bool:
        """Return whether ``node``, if it were empty, could host a pod of ``request``."""
        if request.device:
            return self.device_nodes.get(request.device) == node.name
        if node.is_shared and request.gpus > 1:
            return False
        return (
            request.product_rank(node.product) is not None
            and node.memory_gib >= request.memory_gib
            and node.gpus >= request.gpus
        )

    def has_room(self, request: GpuRequest, name: str) -> bool:
        """Return whether ``name`` can host a pod of ``request`` in its current state."""
        node = self.nodes[name]
        if name in self._closed:
            return False
        if request.device and not self._device_is_available(request):
            return False
        if node.is_shared and self._pods_on[name]:
            return self._can_share(request, node)
        return self._free[name] >= request.gpus

    def pods_that_fit(self, request: GpuRequest, kind: NodeKind) -> int:
        """Return how many pods of ``request`` the nodes of ``kind`` can host now."""
        fitting = sum(
            len(nodes) * (1 if kind[2] > 1 else free // request.gpus)
            for free, nodes in self._levels.get(kind, {}).items()
        )
        return min(fitting, request.pods)

    def nodes_short_of(self, request: GpuRequest, kind: NodeKind, limit: int) -> list[str]:
        """Return up to ``limit`` nodes of ``kind`` with too few free GPUs, most free first."""
        levels = self._levels.get(kind, {})
        names: list[str] = []
        for free in sorted((level for level in levels if level < request.gpus), reverse=True):
            names += heapq.nsmallest(limit - len(names), levels[free] - self._closed)
            if len(names) >= limit:
                break
        return names

    def best_fit_node(self, request: GpuRequest, kind: NodeKind, skip: str = "") -> str | None:
        """Return the node of ``kind`` with the fewest free GPUs that suffice, first by name."""
        if kind[2] > 1 and (host := self._shared_node(request, kind, skip)):
            return host
        heaps = self._heaps.get(kind, {})
        levels = sorted(level for level, heap in heaps.items() if heap and level >= request.gpus)
        for free in levels:
            if name := self._peek_valid(heaps[free], free, skip):
                return name
        return None

    def allocate(self, request: GpuRequest, name: str) -> None:
        """Assign GPUs of ``name`` to one pod of ``request``; the node must have room."""
        node = self.nodes[name]
        self._requests[request.key] = request
        self._keys_of_mission.setdefault(request.mission, set()).add(request.key)
        by_node, by_key = self.placed.setdefault(request.key, {}), self._pods_on[name]
        by_node[name] = by_node.get(name, 0) + 1
        by_key[request.key] = by_key.get(request.key, 0) + 1
        self._nodes_by_priority.setdefault((node.product, request.priority), set()).add(name)
        if request.device:
            self._device_owners.setdefault(request.device, set()).add(request.key)
        self._set_free(name, 0 if node.is_shared else self._free[name] - request.gpus)

    def release(self, request: GpuRequest, name: str) -> None:
        """Take the GPUs of one pod of ``request`` on ``name`` back."""
        node = self.nodes[name]
        by_node, by_key = self.placed[request.key], self._pods_on[name]
        for counts, key in ((by_node, name), (by_key, request.key)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
        if not by_node:
            del self.placed[request.key]
            self._device_owners.get(request.device, set()).discard(request.key)
        if not any(self._requests[key].priority is request.priority for key in by_key):
            self._nodes_by_priority[node.product, request.priority].discard(name)
        if node.is_shared:
            self._set_free(name, 0 if by_key else 1)
        else:
            self._set_free(name, self._free[name] + request.gpus)

    def _set_free(self, name: str, free: int) -> None:
        kind = self.nodes[name].kind
        free = 0 if name in self._closed else free
        levels = self._levels.setdefault(kind, {})
        if name in self._free:
            levels[self._free[name]].discard(name)
        levels.setdefault(free, set()).add(name)
        self.version += 1
        self._free[name] = free
        # Lazy deletion: an entry of an earlier count stays in its heap and is dropped when met,
        # which is cheaper than searching the heap at each change.
        heapq.heappush(self._heaps.setdefault(kind, {}).setdefault(free, []), name)

    def _peek_valid(self, heap: list[str], free: int, skip: str) -> str | None:
        """Return the first node of a heap that still has ``free`` GPUs and is not ``skip``."""
        skipped, first = None, None
        while heap:
            name = heap[0]
            if self._free[name] != free:
                heapq.heappop(heap)
            elif name == skip:
                # A node that returned to this level is listed twice; push it back once only.
                skipped = heapq.heappop(heap)
                while heap and heap[0] == skip:
                    heapq.heappop(heap)
            else:
                first = name
                break
        if skipped:
            heapq.heappush(heap, skipped)
        return first

    def _shared_node(self, request: GpuRequest, kind: NodeKind, skip: str) -> str | None:
        """Return a time-sliced node whose occupants all share with ``request``."""
        for partner in sorted(request.shares_with):
            for key in sorted(self._keys_of_mission.get(partner, ())):
                for name in sorted(self.placed.get(key, {})):
                    node = self.nodes[name]
                    if name != skip and node.kind == kind and self._can_share(request, node):
                        return name
        return None

    def _can_share(self, request: GpuRequest, node: GpuNode) -> bool:
        """Return whether ``request`` may join the occupants of a time-sliced node.

        All pairs must name each other, and the memory of all pods must fit: time slicing does not
        partition memory, so one pod too many would make another one fail at run time.
        """
        pods, memory = 1, request.memory_gib
        if node.foreign_units or node.name in self._closed:
            return False
        for other, count in self.occupants(node.name):
            if not _share_mutually(request, other):
                return False
            pods += count
            memory += count * other.memory_gib
        return pods <= node.pods_per_gpu and memory <= node.memory_gib

    def _device_is_available(self, request: GpuRequest) -> bool:
        """Return whether every other owner of the named device shares it with ``request``."""
        others = self._device_owners.get(request.device, set()) - {request.key}
        return all(_share_mutually(request, self._requests[key]) for key in others)


def _share_mutually(one: GpuRequest, other: GpuRequest) -> bool:
    return other.mission in one.shares_with and one.mission in other.shares_with
