"""The GPUs and who sits on them while a plan is made."""

import heapq
from collections.abc import Iterable, Iterator

from bem_fleet.services.orchestrator.assignment.claims import Claim, Priority
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode, devices

Kind = tuple[str, float, int]


class Board:
    """Counts what is free, node by node, and finds the tightest node that fits.

    Nodes of one kind lie in heaps by their number of free GPUs, so that a search costs the
    number of kinds and of free counts, not of nodes. A GPU whose product is time-sliced
    (``slots`` above 1) belongs to one pod, or to pods of missions that all share with each
    other; which GPU of a node a pod gets is the device plugin's choice, so a sliced node is
    treated as one GPU.

    Args:
        nodes: All of the cluster that have GPUs.
    """

    def __init__(self, nodes: Iterable[GpuNode]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.devices = devices(self.nodes.values())
        self.pods: dict[str, dict[str, int]] = {}
        self._on: dict[str, dict[str, int]] = {name: {} for name in self.nodes}
        self._claims: dict[str, Claim] = {}
        self._free: dict[str, int] = {}
        self._keys: dict[str, set[str]] = {}
        self._heaps: dict[Kind, dict[int, list[str]]] = {}
        self._levels: dict[Kind, dict[int, set[str]]] = {}
        self.version = 0
        self._pinned: dict[str, set[str]] = {}
        self._by_class: dict[tuple[str, Priority], set[str]] = {}
        for node in self.nodes.values():
            whole = 1 if node.slots > 1 else node.gpus
            gone = min(node.foreign, 1) if node.slots > 1 else node.foreign
            self._set_free(node.name, max(0, whole - gone))

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of nodes there are."""
        return sorted(self._heaps)

    def free(self, node: str) -> int:
        """Return the GPUs of ``node`` that no one has."""
        return self._free[node]

    def occupants(self, node: str) -> Iterator[tuple[Claim, int]]:
        """Yield the claims on ``node`` and their pods there."""
        for key, pods in self._on[node].items():
            yield self._claims[key], pods

    def lower(self, product: str, priority: Priority) -> Iterator[tuple[Priority, str]]:
        """Yield nodes of ``product`` with pods of a class below ``priority``, lowest first."""
        for below in Priority:
            if below >= priority:
                return
            for name in sorted(self._by_class.get((product, below), ())):
                yield below, name

    def count(self, claim: Claim) -> int:
        """Return how many pods of ``claim`` have a place."""
        return sum(self.pods.get(claim.key, {}).values())

    def suits(self, claim: Claim, node: GpuNode) -> bool:
        """Tell whether ``node``, if it were empty, could take a pod of ``claim``."""
        if claim.device:
            return self.devices.get(claim.device) == node.name
        if node.slots > 1 and claim.gpus > 1:
            return False
        return (
            claim.accepts(node.product) is not None
            and node.memory_gib >= claim.memory_gib
            and node.gpus >= claim.gpus
        )

    def fits(self, claim: Claim, name: str) -> bool:
        """Tell whether ``name`` can take a pod of ``claim`` as it is."""
        node = self.nodes[name]
        if claim.device and not self._may_pin(claim):
            return False
        if node.slots > 1 and self._on[name]:
            return self._joins(claim, node)
        return self._free[name] >= claim.gpus

    def room(self, claim: Claim, kind: Kind) -> int:
        """Return how many of the pods of ``claim`` fit on nodes of ``kind`` as they are."""
        seen = sum(
            len(nodes) * (1 if kind[2] > 1 else free // claim.gpus)
            for free, nodes in self._levels.get(kind, {}).items()
        )
        return min(seen, claim.pods)

    def nearly(self, claim: Claim, kind: Kind, limit: int) -> list[str]:
        """Return up to ``limit`` nodes of ``kind`` with too few GPUs free, the most free first."""
        levels = self._levels.get(kind, {})
        found: list[str] = []
        for free in sorted((level for level in levels if level < claim.gpus), reverse=True):
            found += heapq.nsmallest(limit - len(found), levels[free])
            if len(found) >= limit:
                break
        return found

    def tightest(self, claim: Claim, kind: Kind, skip: str = "") -> str | None:
        """Return the node of ``kind`` with the fewest free GPUs that fits, by name among equals."""
        if kind[2] > 1 and (host := self._host(claim, kind, skip)):
            return host
        heaps = self._heaps.get(kind, {})
        for free in sorted(level for level, heap in heaps.items() if heap and level >= claim.gpus):
            if name := self._first(heaps[free], free, skip):
                return name
        return None

    def put(self, claim: Claim, name: str) -> None:
        """Give a pod of ``claim`` its GPUs on ``name``, which must fit."""
        node = self.nodes[name]
        self._claims[claim.key] = claim
        self._keys.setdefault(claim.mission, set()).add(claim.key)
        mine = self.pods.setdefault(claim.key, {})
        mine[name] = mine.get(name, 0) + 1
        on = self._on[name]
        on[claim.key] = on.get(claim.key, 0) + 1
        self._by_class.setdefault((node.product, claim.priority), set()).add(name)
        if claim.device:
            self._pinned.setdefault(claim.device, set()).add(claim.key)
        self._set_free(name, 0 if node.slots > 1 else self._free[name] - claim.gpus)

    def take(self, claim: Claim, name: str) -> None:
        """Take a pod of ``claim`` off ``name``."""
        node = self.nodes[name]
        mine, on = self.pods[claim.key], self._on[name]
        for counts, key in ((mine, name), (on, claim.key)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
        if not mine:
            del self.pods[claim.key]
            self._pinned.get(claim.device, set()).discard(claim.key)
        if not any(self._claims[key].priority is claim.priority for key in on):
            self._by_class[node.product, claim.priority].discard(name)
        if node.slots > 1:
            self._set_free(name, 0 if on else 1)
        else:
            self._set_free(name, self._free[name] + claim.gpus)

    def _set_free(self, name: str, free: int) -> None:
        kind = self.nodes[name].kind
        levels = self._levels.setdefault(kind, {})
        if name in self._free:
            levels[self._free[name]].discard(name)
        levels.setdefault(free, set()).add(name)
        self.version += 1
        self._free[name] = free
        # Entries of an earlier count stay behind and are dropped when they are met.
        heapq.heappush(self._heaps.setdefault(kind, {}).setdefault(free, []), name)

    def _first(self, heap: list[str], free: int, skip: str) -> str | None:
        kept = None
        found = None
        while heap:
            name = heap[0]
            if self._free[name] != free:
                heapq.heappop(heap)
            elif name == skip:
                kept = heapq.heappop(heap)
                while heap and heap[0] == skip:
                    heapq.heappop(heap)
            else:
                found = name
                break
        if kept:
            heapq.heappush(heap, kept)
        return found

    def _host(self, claim: Claim, kind: Kind, skip: str) -> str | None:
        """Return a sliced node whose occupants all share with ``claim``."""
        for partner in sorted(claim.shares_with):
            for key in sorted(self._keys.get(partner, ())):
                for name in sorted(self.pods.get(key, {})):
                    node = self.nodes[name]
                    if name != skip and node.kind == kind and self._joins(claim, node):
                        return name
        return None

    def _joins(self, claim: Claim, node: GpuNode) -> bool:
        """Tell whether ``claim`` may come to those who are on a sliced node already."""
        units, memory = 1 + node.foreign, claim.memory_gib
        if node.foreign:
            return False
        for other, pods in self.occupants(node.name):
            if other.mission not in claim.shares_with or claim.mission not in other.shares_with:
                return False
            units += pods
            memory += pods * other.memory_gib
        return units <= node.slots and memory <= node.memory_gib

    def _may_pin(self, claim: Claim) -> bool:
        """A device that two claims name is one device: only those that share get it together."""
        others = self._pinned.get(claim.device, set()) - {claim.key}
        return all(
            self._claims[key].mission in claim.shares_with
            and claim.mission in self._claims[key].shares_with
            for key in others
        )
