"""Explanations of unmet GPU requests: the request, the limit and the current owners."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bem_fleet.services.orchestrator.assignment.capacity import GpuCapacity
from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    GpuRequest,
    UnmetReason,
    UnmetRequest,
)
from bem_fleet.services.orchestrator.assignment.inventory import NodeKind

_MAX_LISTED = 5


@dataclass
class _KindTotals:
    """GPUs of all nodes of one kind together; those of closed nodes are not counted."""

    gpus: int = 0
    largest_node: int = 0
    free: int = 0
    foreign_units: int = 0
    owners: set[str] = field(default_factory=set)


class UnmetExplainer:
    """Explains unmet requests after the assignment is final.

    Args:
        capacity: The final state of all nodes.
    """

    def __init__(self, capacity: GpuCapacity) -> None:
        self._capacity = capacity
        self._totals: dict[NodeKind, _KindTotals] = {}
        for node in capacity.nodes.values():
            totals = self._totals.setdefault(node.kind, _KindTotals())
            gpus = node.assignable_gpus
            totals.largest_node = max(totals.largest_node, gpus)
            if node.closed:
                continue
            totals.gpus += gpus
            totals.free += capacity.free_gpus(node.name)
            totals.foreign_units += node.foreign_units
            totals.owners |= {_owner(other) for other, _ in capacity.occupants(node.name)}

    def explain(self, request: GpuRequest, pods: int) -> UnmetRequest:
        """Return why ``pods`` pods of ``request`` are not placed."""
        reason, message = self._reason(request)
        return UnmetRequest(reason, message, pods)

    def _reason(self, request: GpuRequest) -> tuple[UnmetReason, str]:
        """Return the first requirement that no node meets, from the product to free GPUs."""
        if not self._capacity.nodes:
            return UnmetReason.NO_GPUS_IN_CLUSTER, "no node of the cluster offers nvidia.com/gpu"
        if request.device:
            return self._device(request)
        return self._closed_for(request) or self._missing(request)

    def _missing(self, request: GpuRequest) -> tuple[UnmetReason, str]:
        """Return what no node has, or that all suitable GPUs are in use."""
        suitable = [kind for kind in self._totals if request.product_rank(kind[0]) is not None]
        if not suitable:
            wanted = " or ".join(request.products)
            available = _list({kind[0] for kind in self._totals})
            return UnmetReason.PRODUCT_MISSING, f"no node has {wanted}; nodes have {available}"
        large = [kind for kind in suitable if kind[1] >= request.memory_gib]
        if not large:
            most = max(kind[1] for kind in suitable)
            needed = f"needs {request.memory_gib:g} GiB a GPU"
            limit = f"the largest suitable GPU has {most:g} GiB"
            return UnmetReason.MEMORY_TOO_SMALL, f"{needed}; {limit}"
        wide = [kind for kind in large if self._totals[kind].largest_node >= request.gpus]
        if not wide:
            most_gpus = max(self._totals[kind].largest_node for kind in large)
            return (
                UnmetReason.NODE_TOO_SMALL,
                f"needs {request.gpus} GPUs on one node; the largest suitable node has {most_gpus}",
            )
        return UnmetReason.OVERBOOKED, self._overbooked(request, wide)

    def _device(self, request: GpuRequest) -> tuple[UnmetReason, str]:
        devices = self._capacity.device_nodes
        name = devices.get(request.device)
        if name is None:
            prefix = request.device.rpartition("_")[0]
            similar = [d for d in devices if d.rpartition("_")[0] == prefix]
            known = _list(similar) if similar else f"no {prefix}; devices: {_list(devices)}"
            return (
                UnmetReason.DEVICE_MISSING,
                f"names {request.device}, which the cluster does not have; it has {known}",
            )
        if closed := self._capacity.nodes[name].closed:
            message = f"names {request.device} on node {name}, which is {closed}"
            return UnmetReason.NODE_CLOSED, message
        others = {
            _owner(other) for other, _ in self._capacity.occupants(name) if other.key != request.key
        }
        owners = f", assigned to {_list(others)}" if others else ""
        return UnmetReason.DEVICE_TAKEN, f"names {request.device} on node {name}{owners}"

    def _closed_for(self, request: GpuRequest) -> tuple[UnmetReason, str] | None:
        """Return the reason if only closed nodes could host the request."""
        hosts = [n for n in self._capacity.nodes.values() if self._capacity.could_host(request, n)]
        if not hosts or any(not node.closed for node in hosts):
            return None
        closed = self._closed_nodes(request)
        return UnmetReason.NODE_CLOSED, f"all suitable nodes are closed: {closed}"

    def _closed_nodes(self, request: GpuRequest) -> str:
        """Return the closed nodes that could host the request, each with its reason."""
        return _list(
            f"{node.name} ({node.closed})"
            for node in self._capacity.nodes.values()
            if node.closed and self._capacity.could_host(request, node)
        )

    def _overbooked(self, request: GpuRequest, kinds: list[NodeKind]) -> str:
        totals = [self._totals[kind] for kind in kinds]
        gpus, free = sum(t.gpus for t in totals), sum(t.free for t in totals)
        clauses = [f"all {gpus} suitable GPUs are booked, {free} free"]
        if free:
            clauses[0] += f", but no node of one product has {request.gpus} free together"
        if owners := set().union(*(t.owners for t in totals)) - {_owner(request)}:
            clauses.append(f"assigned to {_list(owners)}")
        if closed := self._closed_nodes(request):
            clauses.append(f"closed nodes are left out: {closed}")
        if foreign := sum(t.foreign_units for t in totals):
            clauses.append(f"{foreign} used by pods outside the fleet")
        return "; ".join(clauses)


def _owner(request: GpuRequest) -> str:
    return f"{request.mission} ({request.priority.name.lower()})"


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    if len(ordered) <= _MAX_LISTED:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:_MAX_LISTED])} and {len(ordered) - _MAX_LISTED} more"
