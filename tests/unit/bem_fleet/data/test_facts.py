"""Facts of packaged texts."""

from bem_fleet.data.facts import load_facts
from bem_fleet.data.splits import assign_split

from tests.support.text_digests import text_digest


def test_facts_are_typed_and_split_by_passage() -> None:
    """Every split has all three kinds; numbers are digits, flags yes or no, passages short."""
    facts = load_facts()

    assert set(facts) == {"train", "dev", "held_out"}
    for split, kinds in facts.items():
        assert set(kinds) == {"text", "number", "flag"}
        assert all(fact.answer.isdigit() for fact in kinds["number"])
        assert {fact.answer for fact in kinds["flag"]} == {"yes", "no"}
        wrong = [
            text_digest(fact.passage)
            for facts_of_kind in kinds.values()
            for fact in facts_of_kind
            if assign_split(fact.passage) != split
            or len(fact.passage) > 900
            or not fact.question.endswith("?")
        ]
        assert not wrong
