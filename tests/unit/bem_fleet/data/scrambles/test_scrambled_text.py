"""Records restore their source, align words, and refuse what they do not belong to."""

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.scrambles.scrambled_text import (
    Piece,
    ScrambleChain,
    ScrambledText,
    replace_pieces,
)

SWAPPED = ScrambledText((Piece(3, "dog", "dog"), Piece(2, " ", " "), Piece(0, "my", "MY")))


def test_record_restores_the_source_of_its_own_text() -> None:
    """A new order with an edit is undone; another text is refused."""
    assert SWAPPED.text == "dog MY"
    assert SWAPPED.restore("dog MY") == "my dog"
    assert SWAPPED.aligned_ends() == [(2, 6), (6, 3)]
    with pytest.raises(DataFormatError, match="'dog my' is not the result"):
        SWAPPED.restore("dog my")


def test_chain_undoes_the_last_step_first_and_aligns_what_every_step_kept() -> None:
    """A word that a later step removes has no alignment; the others keep theirs."""
    later = replace_pieces(["dog", " ", "MY"], ["hotdog", "  ", ""])
    chain = ScrambleChain((SWAPPED, later))

    assert chain.text == "hotdog  "
    assert chain.restore(chain.text) == "my dog"
    assert chain.aligned_ends() == [(6, 6)]


def test_insertions_are_pieces_without_original() -> None:
    """What stands around a text is removed again."""
    one = ScrambledText((Piece(0, "", "Say: "), Piece(0, "yes", "yes"), Piece(3, "", "!")))

    assert (one.text, one.source) == ("Say: yes!", "yes")
    assert one.aligned_ends() == [(3, 8)]


@pytest.mark.parametrize("start", [0, 2])
def test_pieces_that_do_not_cover_the_source_are_refused(start: int) -> None:
    """Gaps and overlaps are named."""
    with pytest.raises(
        DataFormatError, match=f"one begins at {start}, but the source goes on at 1"
    ):
        ScrambledText((Piece(0, "a", "a"), Piece(start, "bc", "bc")))
