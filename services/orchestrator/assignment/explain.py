"""Says what a claim lacks, in words that name the request, the limit and who is in the way."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bem_fleet.services.orchestrator.assignment.board import Board, Kind
from bem_fleet.services.orchestrator.assignment.claims import Claim, Refusal, RefusalReason
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode

_NAMED = 5


@dataclass
class _Sum:
    """What nodes of one kind have together."""

    gpus: int = 0
    largest: int = 0
    free: int = 0
    foreign: int = 0
    holders: set[str] = field(default_factory=set)


class Explainer:
    """Explains refusals on a board that changes no more.

    Args:
        board: The finished one.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._sums: dict[Kind, _Sum] = {}
        for node in board.nodes.values():
            one = self._sums.setdefault(node.kind, _Sum())
            gpus = _whole(node)
            one.gpus += gpus
            one.largest = max(one.largest, gpus)
            one.free += board.free(node.name)
            one.foreign += node.foreign
            one.holders |= {_named(other) for other, _ in board.occupants(node.name)}

    def refusal(self, claim: Claim, pods: int) -> Refusal:
        """Return why ``pods`` pods of ``claim`` have no place."""
        reason, message = self._why(claim)
        return Refusal(reason, message, pods)

    def _why(self, claim: Claim) -> tuple[RefusalReason, str]:
        if not self._sums:
            return RefusalReason.NO_GPUS_IN_CLUSTER, "no node of the cluster offers nvidia.com/gpu"
        if claim.device:
            return self._device(claim)
        right = [kind for kind in self._sums if claim.accepts(kind[0]) is not None]
        if not right:
            wanted = " or ".join(claim.products)
            there = _some({kind[0] for kind in self._sums})
            return RefusalReason.PRODUCT_MISSING, f"no node has {wanted}; nodes have {there}"
        large = [kind for kind in right if kind[1] >= claim.memory_gib]
        if not large:
            most = max(kind[1] for kind in right)
            return (
                RefusalReason.MEMORY_TOO_SMALL,
                f"needs {claim.memory_gib:g} GiB a GPU; the largest that will do has {most:g} GiB",
            )
        roomy = [kind for kind in large if self._sums[kind].largest >= claim.gpus]
        if not roomy:
            most_gpus = max(self._sums[kind].largest for kind in large)
            return (
                RefusalReason.NODE_TOO_SMALL,
                f"needs {claim.gpus} GPUs on one node; the largest that will do has {most_gpus}",
            )
        return RefusalReason.OVERBOOKED, self._overbooked(claim, roomy)

    def _device(self, claim: Claim) -> tuple[RefusalReason, str]:
        board = self._board
        name = board.devices.get(claim.device)
        if name is None:
            prefix = claim.device.rpartition("_")[0]
            there = [d for d in board.devices if d.rpartition("_")[0] == prefix]
            known = _some(there) if there else f"no {prefix}; devices: {_some(board.devices)}"
            return (
                RefusalReason.DEVICE_MISSING,
                f"names {claim.device}, which the cluster does not have; it has {known}",
            )
        others = {_named(one) for one, _ in board.occupants(name) if one.key != claim.key}
        by = f", held by {_some(others)}" if others else ""
        return RefusalReason.DEVICE_TAKEN, f"names {claim.device} on node {name}{by}"

    def _overbooked(self, claim: Claim, kinds: list[Kind]) -> str:
        sums = [self._sums[kind] for kind in kinds]
        gpus, free = sum(one.gpus for one in sums), sum(one.free for one in sums)
        parts = [f"all {gpus} suitable GPUs are booked, {free} free"]
        if free:
            parts[0] += f", but no node of one product has {claim.gpus} free together"
        if holders := set().union(*(one.holders for one in sums)) - {_named(claim)}:
            parts.append(f"held by {_some(holders)}")
        if foreign := sum(one.foreign for one in sums):
            parts.append(f"{foreign} used by pods outside the fleet")
        return "; ".join(parts)


def _whole(node: GpuNode) -> int:
    return 1 if node.slots > 1 else node.gpus


def _named(claim: Claim) -> str:
    return f"{claim.mission} ({claim.priority.name.lower()})"


def _some(given: Iterable[str]) -> str:
    names = sorted(given)
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
