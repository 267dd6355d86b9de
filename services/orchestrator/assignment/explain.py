"""Says what a claim lacks, in words that name the request, the limit and who is in the way."""

from services.orchestrator.assignment.board import Board
from services.orchestrator.assignment.claims import Claim, Refusal, RefusalReason
from services.orchestrator.assignment.inventory import GpuNode

_NAMED = 5


def refusal(claim: Claim, board: Board, pods: int) -> Refusal:
    """Return why ``pods`` pods of ``claim`` have no place on ``board``."""
    reason, message = _why(claim, board)
    return Refusal(reason, message, pods)


def _why(claim: Claim, board: Board) -> tuple[RefusalReason, str]:
    nodes = list(board.nodes.values())
    if not nodes:
        return RefusalReason.NO_GPUS_IN_CLUSTER, "no node of the cluster offers nvidia.com/gpu"
    if claim.device:
        return _device(claim, board)
    products = sorted({node.product for node in nodes})
    right = [node for node in nodes if claim.accepts(node.product) is not None]
    if not right:
        wanted = " or ".join(claim.products)
        return (
            RefusalReason.PRODUCT_MISSING,
            f"no node has {wanted}; nodes have {_some(products)}",
        )
    large = [node for node in right if node.memory_gib >= claim.memory_gib]
    if not large:
        most = max(node.memory_gib for node in right)
        return (
            RefusalReason.MEMORY_TOO_SMALL,
            f"needs {claim.memory_gib:g} GiB a GPU; the largest that will do has {most:g} GiB",
        )
    roomy = [node for node in large if board.suits(claim, node)]
    if not roomy:
        most_gpus = max(1 if node.slots > 1 else node.gpus for node in large)
        return (
            RefusalReason.NODE_TOO_SMALL,
            f"needs {claim.gpus} GPUs on one node; the largest that will do has {most_gpus}",
        )
    return RefusalReason.OVERBOOKED, _overbooked(claim, board, roomy)


def _device(claim: Claim, board: Board) -> tuple[RefusalReason, str]:
    name = board.devices.get(claim.device)
    if name is None:
        prefix = claim.device.rpartition("_")[0]
        there = sorted(d for d in board.devices if d.rpartition("_")[0] == prefix)
        known = _some(there) if there else f"no {prefix}; devices: {_some(sorted(board.devices))}"
        return (
            RefusalReason.DEVICE_MISSING,
            f"names {claim.device}, which the cluster does not have; it has {known}",
        )
    holders = _holders(claim, board, [board.nodes[name]])
    by = f", held by {holders}" if holders else ""
    return RefusalReason.DEVICE_TAKEN, f"names {claim.device} on node {name}{by}"


def _overbooked(claim: Claim, board: Board, nodes: list[GpuNode]) -> str:
    gpus = sum(1 if node.slots > 1 else node.gpus for node in nodes)
    free = sum(board.free(node.name) for node in nodes)
    foreign = sum(node.foreign for node in nodes)
    parts = [f"all {gpus} suitable GPUs are booked, {free} free"]
    if claim.gpus > 1:
        parts[0] += f" but no node has {claim.gpus} free together"
    if holders := _holders(claim, board, nodes):
        parts.append(f"held by {holders}")
    if foreign:
        parts.append(f"{foreign} used by pods outside the fleet")
    return "; ".join(parts)


def _holders(claim: Claim, board: Board, nodes: list[GpuNode]) -> str:
    held = {
        f"{other.mission} ({other.priority.name.lower()})"
        for node in nodes
        for other, _ in board.occupants(node.name)
        if other.key != claim.key
    }
    return _some(sorted(held))


def _some(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
