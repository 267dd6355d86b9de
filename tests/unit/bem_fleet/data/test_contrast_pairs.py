"""Pairs that people wrote."""

from bem_fleet.data.contrast_pairs import (
    crows_pairs,
    question_answer_pairs,
    stereotype_pairs,
    summary_pairs,
)


def test_pairs_differ_in_what_they_claim() -> None:
    """Summaries and stereotypes come with their counterparts."""
    for pairs, least in ((summary_pairs(), 300), (stereotype_pairs(), 4000), (crows_pairs(), 1000)):
        assert len(pairs) >= least
        assert sum(left != right for _, left, right in pairs) > 0.95 * len(pairs)
        assert all("[MASK]" not in left for _, left, _ in pairs)


def test_questions_come_with_what_answers_them() -> None:
    """Neither side is empty."""
    assert all(question and answer for question, answer in question_answer_pairs())
