"""Sides of a comparison."""

import pytest
from bem.errors import EvaluationError, InvalidScoresError
from bem_fleet.evaluation.systems import ComparisonSide, EvaluationItem, Message, SystemRun

from tests.support.oracle_comparison import Oracle


def test_few_shot_examples_come_before_the_item() -> None:
    """The conversation has each example as two turns, then the item's prompt."""
    side = ComparisonSide("s", (SystemRun(Oracle(2)),), "strict", (("1 + 1?", "2"),))
    chat = side.chat(EvaluationItem("k", "2 + 2?", ("4",)))

    assert chat == (Message("user", "1 + 1?"), Message("assistant", "2"), Message("user", "2 + 2?"))


def test_digest_of_a_side_names_each_system_once() -> None:
    """Runs of one system share its digest; another system adds its own."""
    one, other = Oracle(2), Oracle(3)
    runs = (SystemRun(one, 0), SystemRun(one, 1), SystemRun(other, 2))

    assert ComparisonSide("s", runs, "strict").digest == "oracle-2,oracle-3"


def test_side_without_runs_or_with_unknown_scoring_is_refused() -> None:
    """Both are errors when the side is made, not when it is scored."""
    with pytest.raises(EvaluationError, match="runs: side 's' has none"):
        ComparisonSide("s", (), "strict")
    with pytest.raises(InvalidScoresError, match="scoring_mode: 'loose' is unknown"):
        ComparisonSide("s", (SystemRun(Oracle(2)),), "loose")
