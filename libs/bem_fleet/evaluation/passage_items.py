"""Evaluation items of passage questions."""

from bem_fleet.data.datasets import question_word
from bem_fleet.data.passage_qa import PassageQADataset
from bem_fleet.evaluation.systems import EvaluationItem


def held_out_items(data: PassageQADataset, limit: int | None) -> tuple[EvaluationItem, ...]:
    """Return the held-out questions as items, by question word, with their passage as cluster.

    Args:
        data: Passage questions.
        limit: Largest number of items; None for all.
    """
    return tuple(
        EvaluationItem(
            item.key,
            item.prompt(),
            (item.answer,),
            question_word(item.question),
            cluster=item.cluster,
        )
        for item in data.splits["held_out"][:limit]
    )
