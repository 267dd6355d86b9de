"""Record of a text's change: pieces of the source in the order of the result.

A piece has its place in the source, its original text and its new text, so that edits, insertions
and new orders are one form. The record restores the source from the result, and aligns offsets:
the tokens that end where a piece ends are the same tokens in both views.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bem.errors import DataFormatError


@dataclass(frozen=True)
class Piece:
    """Part of a scrambled text.

    Attributes:
        start: Offset of the original in the source, characters.
        original: Text in the source; empty for an insertion.
        text: Text in the result; empty for a removal.
    """

    start: int
    original: str
    text: str

    @property
    def end(self) -> int:
        """Offset after the original in the source, characters."""
        return self.start + len(self.original)


@dataclass(frozen=True)
class ScrambledText:
    """Result of a scramble.

    Attributes:
        pieces: Pieces in the order of the result; their originals cover the source once.

    Raises:
        DataFormatError: The originals overlap or leave a gap.
    """

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        offset = 0
        for piece in self._in_source_order():
            if piece.start != offset:
                raise DataFormatError(
                    f"pieces: one begins at {piece.start}, but the source goes on at {offset}"
                )
            offset = piece.end

    @cached_property
    def text(self) -> str:
        """Scrambled text."""
        return "".join(piece.text for piece in self.pieces)

    @cached_property
    def source(self) -> str:
        """Text before the scramble."""
        return "".join(piece.original for piece in self._in_source_order())

    def restore(self, text: str) -> str:
        """Return the source of the scrambled text.

        Raises:
            DataFormatError: The text is not the one that this record belongs to.
        """
        if text != self.text:
            raise DataFormatError(f"text: {text[:40]!r} is not the result of this scramble")
        return self.source

    def aligned_ends(self) -> list[tuple[int, int]]:
        """Return the offsets after each word in source and result, by source offset.

        A word is a piece whose original and text are both more than space.
        """
        ends, offset = [], 0
        for piece in self.pieces:
            offset += len(piece.text)
            if piece.original.strip() and piece.text.strip():
                ends.append((
                    piece.start + len(piece.original.rstrip()),
                    offset - len(piece.text) + len(piece.text.rstrip()),
                ))  # fmt: skip
        return sorted(ends)

    def _in_source_order(self) -> list[Piece]:
        return sorted(self.pieces, key=lambda piece: (piece.start, piece.end))


@dataclass(frozen=True)
class ScrambleChain:
    """Scrambles that were applied one after the other; it composes and undoes as one.

    Attributes:
        steps: Records in the order of application; each one's source is the text before it.
    """

    steps: tuple[ScrambledText, ...]

    @property
    def text(self) -> str:
        """Text after the last step."""
        return self.steps[-1].text

    def restore(self, text: str) -> str:
        """Return the text before the first step.

        Raises:
            DataFormatError: The text is not the result of the last step.
        """
        for step in reversed(self.steps):
            text = step.restore(text)
        return text

    def aligned_ends(self) -> list[tuple[int, int]]:
        """Return the offsets after each word that every step kept, by source offset."""
        ends = {source: source for source, _ in self.steps[0].aligned_ends()}
        for step in self.steps:
            moved = dict(step.aligned_ends())
            ends = {source: moved[end] for source, end in ends.items() if end in moved}
        return sorted(ends.items())


def replace_pieces(parts: Sequence[str], texts: Iterable[str]) -> ScrambledText:
    """Return the record of consecutive parts of a source that get other texts in place."""
    pieces, offset = [], 0
    for part, text in zip(parts, texts, strict=True):
        pieces.append(Piece(offset, part, text))
        offset += len(part)
    return ScrambledText(tuple(pieces))
