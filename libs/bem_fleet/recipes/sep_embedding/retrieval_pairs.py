"""Questions with the passages that answer them, clean and badly typed, for embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

from bem_fleet.data.passage_qa import load_passage_qa
from bem_fleet.data.scrambles.catalogue import scramble_texts

TYPO_RATE = 0.2
"""Share of the words of a badly typed question that have a typing error."""


@dataclass(frozen=True)
class RetrievalPairs:
    """Passages and questions about them.

    Attributes:
        passages: Different passages.
        questions: Questions about them, as people asked them.
        owners: Number of each question's passage.
        typed: Badly typed forms of the questions, one list for each kind of typing error.
    """

    passages: tuple[str, ...]
    questions: tuple[str, ...]
    owners: tuple[int, ...]
    typed: tuple[tuple[str, ...], ...]


def retrieval_pairs(
    split: str, typos: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> RetrievalPairs:
    """Return the pairs of passage-qa.

    Args:
        split: ``train`` or ``dev``.
        typos: Kinds of typing errors, keys of the scrambles' catalogue.
        limit: Most questions; None for all.
        seed: Seed of the typing errors.

    Raises:
        DataNotFoundError: The package with the data is not installed.
    """
    items = load_passage_qa().splits[split][:limit]
    passages = tuple(dict.fromkeys(one.passage for one in items))
    numbers = {passage: number for number, passage in enumerate(passages)}
    questions = tuple(one.question for one in items)
    return RetrievalPairs(
        passages,
        questions,
        tuple(numbers[one.passage] for one in items),
        tuple(
            tuple(one.text for one in scramble_texts(questions, [kind], TYPO_RATE, seed=seed + at))
            for at, kind in enumerate(typos)
        ),
    )
