"""Makes the plan: highest class first, nobody disturbed without need, the tightest fit.

A pod that finds no free GPU is given one in the least disturbing way there is: others of its
class or below, never critical ones, move to where there is room; else pods of a lower class,
never critical ones, lose their place, the lowest class first, as few GPUs as do.
Those that lost their place are served again in their turn.

Packing pods of several GPUs is NP-hard; this is a greedy search with one step of repair.
How far it is from the exact optimum is measured: ``results/bench_orchestrator.md``.
"""

from collections.abc import Iterable, Mapping, Sequence

from bem_fleet.services.orchestrator.assignment.board import Board, Kind
from bem_fleet.services.orchestrator.assignment.claims import Claim, Holding, Plan, Priority
from bem_fleet.services.orchestrator.assignment.explain import Explainer
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode

# Nodes looked at for a repair, and rounds until nothing changes; both bound the worst case.
_LOOKED_AT = 64
_ROUNDS = 4


def solve(claims: Iterable[Claim], nodes: Iterable[GpuNode], held: Mapping[str, Holding]) -> Plan:
    """Assign GPUs.

    Args:
        claims: All of the fleet; keys unique.
        nodes: All with GPUs that take pods.
        held: Pods by node of each claim, as of the last plan; what no longer fits is dropped.

    Returns:
        The plan. Solving again with it as ``held`` changes nothing.
    """
    asked = sorted(claims, key=lambda claim: (-claim.priority, claim.created, claim.key))
    board = Board(nodes)
    solver = _Solver(board)
    for claim in asked:
        solver.keep(claim, held.get(claim.key, {}))
    newcomers = sorted(asked, key=solver.turn)
    for _ in range(_ROUNDS):
        before = {key: dict(pods) for key, pods in board.pods.items()}
        for claim in newcomers:
            solver.complete(claim)
        if board.pods == before:
            break
    return _plan(asked, board, held)


class _Solver:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._kinds: dict[tuple[object, ...], list[Kind]] = {}
        self._suitable: dict[Kind, list[str]] = {}
        self._failed: dict[tuple[object, ...], int] = {}
        for node in sorted(board.nodes.values(), key=lambda one: one.name):
            self._suitable.setdefault(node.kind, []).append(node.name)

    def keep(self, claim: Claim, held: Holding) -> None:
        """Seat again what still has its place; all pods of a claim sit on one product."""
        board = self._board
        product = ""
        for name, pods in sorted(held.items()):
            node = board.nodes.get(name)
            if node is None or not board.suits(claim, node) or product not in ("", node.product):
                continue
            for _ in range(pods):
                if board.count(claim) < claim.pods and board.fits(claim, name):
                    board.put(claim, name)
                    product = node.product

    def turn(self, claim: Claim) -> tuple[object, ...]:
        """Order of service: class, then whoever has fewest nodes to choose from, then size."""
        choices = sum(len(self._suitable[kind]) for kind in self.kinds(claim))
        big = claim.gpus * claim.pods
        return -claim.priority, choices, -claim.gpus, -big, claim.created, claim.key

    def kinds(self, claim: Claim) -> list[Kind]:
        """Return the kinds of nodes that suit, the best first."""
        signature = (
            claim.products,
            claim.memory_gib,
            claim.gpus,
            claim.device,
            bool(claim.shares_with),
        )
        if signature not in self._kinds:
            self._kinds[signature] = sorted(
                (kind for kind in self._suitable if self._suits(claim, kind)),
                key=lambda kind: self._liking(claim, kind),
            )
        return self._kinds[signature]

    def complete(self, claim: Claim) -> None:
        """Place the pods of ``claim`` that have no place, as far as it goes."""
        board = self._board
        while board.count(claim) < claim.pods:
            kinds = self._open(claim)
            # What failed for an equal claim fails again while nobody has moved.
            asked = (claim.priority, claim.products, claim.memory_gib, claim.gpus, *kinds)
            plain = not (claim.shares_with or claim.device or claim.key in board.pods)
            if plain and self._failed.get(asked) == board.version:
                return
            if not any(
                self._directly(claim, kind) or self._by_moving(claim, kind) for kind in kinds
            ) and not any(self._by_evicting(claim, kind) for kind in kinds):
                if plain:
                    self._failed[asked] = board.version
                return

    def _open(self, claim: Claim) -> list[Kind]:
        """Return the kinds that the next pod may sit on: one product for all pods of a claim."""
        board = self._board
        kinds = self.kinds(claim)
        if mine := board.pods.get(claim.key):
            product = board.nodes[next(iter(mine))].product
            return [kind for kind in kinds if kind[0] == product]
        if claim.pods == 1:
            return kinds
        rooms: dict[str, int] = {}
        for kind in kinds:
            rooms[kind[0]] = rooms.get(kind[0], 0) + board.room(claim, kind)
        return sorted(kinds, key=lambda kind: -min(claim.pods, rooms[kind[0]]))

    def _suits(self, claim: Claim, kind: Kind) -> bool:
        return any(self._board.suits(claim, self._board.nodes[n]) for n in self._suitable[kind])

    def _liking(self, claim: Claim, kind: Kind) -> tuple[object, ...]:
        product, memory, slots = kind
        rank = claim.accepts(product) or 0
        wrong_sharing = (slots > 1) != bool(claim.shares_with)
        return rank, wrong_sharing, memory, product

    def _directly(self, claim: Claim, kind: Kind) -> bool:
        board = self._board
        if claim.device:
            name: str | None = board.devices.get(claim.device)
            if name is None or board.nodes[name].kind != kind or not board.fits(claim, name):
                return False
        else:
            name = board.tightest(claim, kind)
        if name is None:
            return False
        board.put(claim, name)
        return True

    def _by_moving(self, claim: Claim, kind: Kind) -> bool:
        """Make room on one node by moving pods of its class or below to free GPUs elsewhere."""
        if kind[2] > 1 or claim.device:
            return False
        board = self._board
        names = board.nearly(claim, kind, _LOOKED_AT)
        return any(self._cleared(claim, name) for name in names)

    def _cleared(self, claim: Claim, name: str) -> bool:
        board = self._board
        if board.nodes[name].gpus < claim.gpus:
            return False
        movable = sorted(
            (
                (other.gpus, other.key, other)
                for other, pods in board.occupants(name)
                for _ in range(pods)
                if other.key != claim.key
                and other.priority <= claim.priority
                and other.priority is not Priority.CRITICAL
                and not other.device
            ),
            key=lambda one: one[:2],
        )
        done: list[tuple[Claim, str]] = []
        for _, _, other in movable:
            if board.fits(claim, name):
                break
            if target := self._elsewhere(other, name):
                board.take(other, name)
                board.put(other, target)
                done.append((other, target))
        if board.fits(claim, name):
            board.put(claim, name)
            return True
        for other, target in reversed(done):
            board.take(other, target)
            board.put(other, name)
        return False

    def _elsewhere(self, other: Claim, name: str) -> str | None:
        """Return another node for a pod; of the same product if the claim has more pods."""
        board = self._board
        product = board.nodes[name].product
        for kind in self.kinds(other):
            if kind[0] != product and board.count(other) > 1:
                continue
            if target := board.tightest(other, kind, skip=name):
                return target
        return None

    def _by_evicting(self, claim: Claim, kind: Kind) -> bool:
        board = self._board
        best: tuple[tuple[int, int, int], str, list[Claim]] | None = None
        looked = 0
        for below, name in board.lower(kind[0], claim.priority):
            if best and (below > best[0][0] or looked >= _LOOKED_AT):
                break
            if board.nodes[name].kind != kind or not board.suits(claim, board.nodes[name]):
                continue
            looked += 1
            victims = self._victims(claim, name, below)
            if victims is not None:
                cost = (below, sum(v.gpus for v in victims), len(victims))
                if best is None or cost < best[0]:
                    best = cost, name, victims
        if best is None:
            return False
        _, name, victims = best
        for victim in victims:
            board.take(victim, name)
        board.put(claim, name)
        return True

    def _victims(self, claim: Claim, name: str, highest: Priority) -> list[Claim] | None:
        """Return the pods up to class ``highest`` to evict from ``name``, None if too few."""
        board = self._board
        chosen: list[Claim] = []
        pods = sorted(
            (
                (other.priority, -other.created, -other.gpus, other.key, other)
                for other, count in board.occupants(name)
                for _ in range(count)
                if other.priority <= highest
            ),
            key=lambda one: one[:4],
        )
        for *_, other in pods:
            if board.fits(claim, name):
                break
            board.take(other, name)
            chosen.append(other)
        enough = board.fits(claim, name)
        for other in list(chosen):  # one large pod may have made smaller ones needless
            board.put(other, name)
            if enough and board.fits(claim, name):
                chosen.remove(other)
            elif enough:
                board.take(other, name)
        if not enough:
            return None
        for other in chosen:
            board.put(other, name)
        return chosen


def _plan(asked: Sequence[Claim], board: Board, held: Mapping[str, Holding]) -> Plan:
    placed = {key: dict(sorted(pods.items())) for key, pods in sorted(board.pods.items())}
    explainer = Explainer(board)
    evicted: dict[str, int] = {}
    moved: dict[str, int] = {}
    refused = {}
    for claim in asked:
        had, has = held.get(claim.key, {}), placed.get(claim.key, {})
        before = min(sum(had.values()), claim.pods)
        kept = sum(min(pods, has.get(name, 0)) for name, pods in had.items())
        count = sum(has.values())
        if count < before:
            evicted[claim.key] = before - count
        if gone := min(before, count) - kept:
            moved[claim.key] = max(0, gone)
        if count < claim.pods:
            refused[claim.key] = explainer.refusal(claim, claim.pods - count)
    return Plan(placed, refused, evicted, {key: n for key, n in moved.items() if n > 0})
