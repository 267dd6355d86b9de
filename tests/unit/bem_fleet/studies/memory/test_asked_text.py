"""Texts of the memory study."""

from bem_fleet.data.memory_tasks import TASKS
from bem_fleet.recipes.memory.training_sentences import NATURAL_TASK
from bem_fleet.studies.memory.asked_text import asked_text

from tests.unit.bem.memory.sessions import encoder


def test_items_are_planted_and_absent_ones_are_not() -> None:
    """Each task has its items in the text, natural facts are asked, absent items are elsewhere."""
    asked = asked_text(encoder().tokenizer, "train", 1000, 0, 2)
    planted = [one for task in TASKS for one in asked.items[task]]

    assert [len(asked.items[task]) for task in TASKS] == [2] * len(TASKS)
    assert 1 <= len(asked.items[NATURAL_TASK]) <= 2
    assert all(needle in asked.text for one in planted for needle in one.needles)
    assert len(asked.absent) == 2 * len(TASKS)
    assert not any(needle in asked.text for one in asked.absent for needle in one.needles)
