"""Pairs of questions and passages."""

import pytest
from bem_fleet.data.held_out import HeldOutClosedError
from bem_fleet.recipes.sep_embedding.retrieval_pairs import retrieval_pairs


@pytest.mark.slow
def test_questions_have_their_passages_and_badly_typed_forms() -> None:
    """Passages are different, owners are numbers of passages, and each kind has a form."""
    pairs = retrieval_pairs("dev", ["typo-repeat", "typo-transpose"], limit=9)

    assert len(set(pairs.passages)) == len(pairs.passages)
    assert len(pairs.questions) == len(pairs.owners) == 9
    assert set(pairs.owners) == set(range(len(pairs.passages)))
    repeated, transposed = pairs.typed
    assert all(len(a) >= len(b) for a, b in zip(repeated, pairs.questions, strict=True))
    assert all(len(a) == len(b) for a, b in zip(transposed, pairs.questions, strict=True))
    assert repeated != pairs.questions
    assert pairs == retrieval_pairs("dev", ["typo-repeat", "typo-transpose"], limit=9)
    with pytest.raises(HeldOutClosedError):
        retrieval_pairs("held_out", ["typo-repeat"])
