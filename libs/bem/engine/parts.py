"""Pieces of prompts, and which of them pass half of the layers together."""

from dataclasses import dataclass

from bem.engine.codes import Stretch
from bem.engine.prefix import BLOCK_TOKENS
from bem.engine.row import Row


@dataclass(frozen=True, eq=False)
class Part:
    """The next piece of one prompt through one half.

    Attributes:
        row: Whose prompt.
        begin: Its first position.
        end: The first position after it.
        block: Key under which its first block will be cached; None where none will.
        stretch: What holds over it; None in the lower half.
    """

    row: Row
    begin: int
    end: int
    block: bytes | None = None
    stretch: Stretch | None = None

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.end - self.begin


class Group:
    """Pieces that pass together, padded to the longest one's length.

    What padding writes into a slot lies after the row's own tokens, where attention never looks
    before they are overwritten.

    Args:
        first: The piece that is due.
        limit: Tokens of all pieces together, padding included.
        context_tokens: Positions of a slot.

    Attributes:
        parts: What is taken, the first one first.
        width: Tokens of the longest.
    """

    def __init__(self, first: Part, limit: int, context_tokens: int) -> None:
        self.parts = [first]
        self.width = first.tokens
        self._limit = limit
        self._context = context_tokens
        self._blocks = {first.block} - {None}

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return (len(self.parts) + 1) * self.width > self._limit

    @property
    def longest(self) -> int:
        """Tokens of the longest piece to offer: beyond, more than half would be padding."""
        return 2 * self.parts[0].tokens

    def offer(self, part: Part) -> bool:
        """Take a piece in if it is worth it; tells whether.

        One that would compute a block that the group computes already waits and finds it cached.
        """
        parts = [*self.parts, part]
        width = max(self.width, part.tokens)
        slots = [one.row.slot for one in parts]
        # Attention computes the slots between along.
        spread = max(slots) - min(slots) + 1 > 2 * len(parts)
        padded = any(2 * one.tokens < width for one in parts)
        over = any(one.begin + width > self._context for one in parts)
        if len(parts) * width > self._limit or spread or padded or over:
            return False
        if part.block is not None:
            if part.block in self._blocks:
                return False
            self._blocks.add(part.block)
        self.parts, self.width = parts, width
        return True


def piece_end(begin: int, limit: int, prompt: int, stretch: int | None) -> int:
    """Return where a piece of one half ends: with its code, else at a block's end if it can."""
    end = min(begin + limit, prompt, prompt if stretch is None else stretch)
    aligned = end // BLOCK_TOKENS * BLOCK_TOKENS
    return aligned if begin < aligned and end < prompt else end
