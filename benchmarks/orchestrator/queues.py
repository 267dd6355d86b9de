"""What Kueue and Volcano say they would do with a fleet, as their documents state it.

Neither is installed here, so these are models of stated behaviour, not measurements of them.
Both get the whole fleet at once, in order of priority, then age; nothing needs preemption then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from bem_fleet.services.orchestrator.assignment.claims import Claim
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode


def kueue(claims: Sequence[Claim], nodes: Sequence[GpuNode]) -> Mapping[str, int]:
    """Return pods by claim key, of one ClusterQueue whose flavors are the products.

    A workload is admitted whole onto the first flavor with unused quota for it, by sums; others
    pass one that does not fit (BestEffortFIFO). Pods then go to nodes one by one, packed; those
    that find no node wait, and their quota with them (no topology-aware scheduling).
    """
    quota: dict[str, int] = {}
    for node in nodes:
        quota[node.product] = quota.get(node.product, 0) + node.gpus
    free = {node.name: node.gpus for node in nodes}
    running: dict[str, int] = {}
    for claim in _in_order(claims):
        asked = claim.pods * claim.gpus
        flavor = next((p for p in _flavors(claim, nodes) if quota[p] >= asked), None)
        if flavor is None:
            continue
        quota[flavor] -= asked
        there = [node for node in nodes if node.product == flavor]
        running[claim.key] = sum(_packed(claim, there, free) for _ in range(claim.pods))
    return running


def volcano(claims: Sequence[Claim], nodes: Sequence[GpuNode]) -> Mapping[str, int]:
    """Return pods by claim key, with plugins priority, gang (all pods or none) and binpack."""
    free = {node.name: node.gpus for node in nodes}
    running: dict[str, int] = {}
    for claim in _in_order(claims):
        allowed = [node for node in nodes if _suits(claim, node)]
        trial = dict(free)
        if all(_packed(claim, allowed, trial) for _ in range(claim.pods)):
            free, running[claim.key] = trial, claim.pods
    return running


POLICIES: dict[str, Callable[[Sequence[Claim], Sequence[GpuNode]], Mapping[str, int]]] = {
    "kueue, as stated": kueue,
    "volcano, as stated": volcano,
}


def _in_order(claims: Iterable[Claim]) -> list[Claim]:
    return sorted(claims, key=lambda claim: (-claim.priority, claim.created))


def _suits(claim: Claim, node: GpuNode) -> bool:
    return claim.accepts(node.product) is not None and node.memory_gib >= claim.memory_gib


def _flavors(claim: Claim, nodes: Sequence[GpuNode]) -> list[str]:
    """Return the products that will do, as the mission prefers them, then the smallest GPU."""
    suits = {node.product: node.memory_gib for node in nodes if _suits(claim, node)}
    return sorted(suits, key=lambda product: (claim.accepts(product), suits[product]))


def _packed(claim: Claim, nodes: Iterable[GpuNode], free: dict[str, int]) -> bool:
    """Take a place for one pod on the fullest node that has it."""
    fits = [node.name for node in nodes if free[node.name] >= claim.gpus]
    if not fits:
        return False
    free[min(fits, key=lambda name: free[name])] -= claim.gpus
    return True
