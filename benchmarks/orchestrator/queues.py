"""Models of Kueue and Volcano, from the behaviour that their documentation states.

Neither is installed here, so these are models of stated behaviour, not measurements of them.
Both get the whole fleet at once, in order of priority, then age; nothing needs preemption then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from bem_fleet.services.orchestrator.assignment.gpu_requests import GpuRequest
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode


def kueue(requests: Sequence[GpuRequest], nodes: Sequence[GpuNode]) -> Mapping[str, int]:
    """Return pods by request key, of one ClusterQueue whose flavors are the products.

    A workload is admitted whole onto the first flavor with unused quota for it, by sums; others
    pass one that does not fit (BestEffortFIFO). Pods then go to nodes one by one, packed; those
    that find no node wait, and their quota with them (no topology-aware scheduling).
    """
    quota: dict[str, int] = {}
    for node in nodes:
        quota[node.product] = quota.get(node.product, 0) + node.gpus
    free = {node.name: node.gpus for node in nodes}
    running: dict[str, int] = {}
    for request in _in_order(requests):
        asked = request.pods * request.gpus
        flavor = next((p for p in _flavors(request, nodes) if quota[p] >= asked), None)
        if flavor is None:
            continue
        quota[flavor] -= asked
        there = [node for node in nodes if node.product == flavor]
        running[request.key] = sum(_packed(request, there, free) for _ in range(request.pods))
    return running


def volcano(requests: Sequence[GpuRequest], nodes: Sequence[GpuNode]) -> Mapping[str, int]:
    """Return pods by request key, with plugins priority, gang (all pods or none) and binpack."""
    free = {node.name: node.gpus for node in nodes}
    running: dict[str, int] = {}
    for request in _in_order(requests):
        allowed = [node for node in nodes if _suits(request, node)]
        trial = dict(free)
        if all(_packed(request, allowed, trial) for _ in range(request.pods)):
            free, running[request.key] = trial, request.pods
    return running


POLICIES: dict[str, Callable[[Sequence[GpuRequest], Sequence[GpuNode]], Mapping[str, int]]] = {
    "kueue, as stated": kueue,
    "volcano, as stated": volcano,
}


def _in_order(requests: Iterable[GpuRequest]) -> list[GpuRequest]:
    return sorted(requests, key=lambda request: (-request.priority, request.created))


def _suits(request: GpuRequest, node: GpuNode) -> bool:
    return request.product_rank(node.product) is not None and node.memory_gib >= request.memory_gib


def _flavors(request: GpuRequest, nodes: Sequence[GpuNode]) -> list[str]:
    """Return the products that will do, as the mission prefers them, then the smallest GPU."""
    suits = {node.product: node.memory_gib for node in nodes if _suits(request, node)}
    return sorted(suits, key=lambda product: (request.product_rank(product), suits[product]))


def _packed(request: GpuRequest, nodes: Iterable[GpuNode], free: dict[str, int]) -> bool:
    """Take a place for one pod on the fullest node that has it."""
    fits = [node.name for node in nodes if free[node.name] >= request.gpus]
    if not fits:
        return False
    free[min(fits, key=lambda name: free[name])] -= request.gpus
    return True
