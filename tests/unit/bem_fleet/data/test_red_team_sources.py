"""Attack templates of the packaged sources."""

from collections import Counter

from bem_fleet.data.red_team import ATTACK_KINDS, CATEGORIES
from bem_fleet.data.red_team_sources import (
    AFTER_SLOT,
    BEFORE_SLOT,
    QUESTION_SLOT,
    attack_templates,
    shuffle_key,
)


def test_templates_cover_all_categories_and_kinds() -> None:
    """Each category and kind has templates, and every template names a known one."""
    templates = list(attack_templates())
    categories = Counter(template.category for template in templates)

    assert set(categories) == set(CATEGORIES)
    assert {template.kind for template in templates} == set(ATTACK_KINDS)
    assert all(template.text.strip() and template.family for template in templates)


def test_passage_slots_come_together() -> None:
    """A template with one half of a passage has the other half and a question about it."""
    slots = (BEFORE_SLOT, AFTER_SLOT, QUESTION_SLOT)
    for template in attack_templates():
        assert len({slot in template.text for slot in slots}) == 1


def test_shuffle_key_is_reproducible() -> None:
    """The same text has the same key; texts that sort together do not keep their order."""
    texts = [f"family/{n:02d}" for n in range(20)]

    assert shuffle_key("a") == shuffle_key("a")
    assert sorted(texts, key=shuffle_key) != texts
