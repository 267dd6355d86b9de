"""KV budget: grants positions to sequences, so that memory is bounded and none waits for ever.

A sequence holds blocks of positions as it grows, up to the most that its request allows. A block is
granted only if afterwards all sequences could still finish one after the other, each with the
positions of those that finished before (the banker's algorithm of Dijkstra, EWD 108, with one
resource). A sequence without a grant pauses for a step; at least one always proceeds.

Example: a budget of four blocks and two sequences that hold one block each and may reach three. The
first is granted a second block: the free one completes it. The second is refused, because then no
block would be free and neither could finish. It waits until the first has ended.
"""

from collections.abc import Hashable

BLOCK = 256
"""Positions that a sequence is granted at once."""


class KVBudget:
    """Grants positions of the KV cache.

    Args:
        tokens: Positions that all sequences together may hold; None for no bound.
    """

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self._held: dict[Hashable, int] = {}
        self._most: dict[Hashable, int] = {}

    @property
    def granted(self) -> int:
        """Positions that sequences hold now."""
        return sum(self._held.values())

    def admit(self, owner: Hashable, first: int, most: int) -> bool:
        """Grant the first positions of a new sequence; return False while there is no room.

        Args:
            owner: Identity of the sequence.
            first: Positions of its prompt.
            most: Positions that it may reach; at most the whole budget.
        """
        self._held[owner], self._most[owner] = min(most, _blocks(first)), most
        if self._is_safe():
            return True
        self.release(owner)
        return False

    def grow(self, owner: Hashable, positions: int) -> bool:
        """Return whether a sequence may hold this many positions now."""
        if positions <= (held := self._held[owner]):
            return True
        self._held[owner] = min(self._most[owner], _blocks(positions))
        if self._is_safe():
            return True
        self._held[owner] = held
        return False

    def shrink(self, owner: Hashable, positions: int) -> None:
        """Take positions back that a sequence has evicted and will not need again."""
        self._held[owner] -= positions
        self._most[owner] -= positions

    def release(self, owner: Hashable) -> None:
        """Take the positions of a sequence back."""
        del self._held[owner], self._most[owner]

    def _is_safe(self) -> bool:
        if self.tokens is None:
            return True
        free = self.tokens - self.granted
        needs = sorted((self._most[one] - held, held) for one, held in self._held.items())
        for need, held in needs:
            if need > free:
                return False
            free += held
        return free >= 0


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK
