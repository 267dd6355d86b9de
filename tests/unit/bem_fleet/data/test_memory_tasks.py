"""Long-context tasks: what is planted, what is asked, and splits that share nothing."""

import re

import pytest
from bem_fleet.data.held_out import HELD_OUT, HeldOutClosedError, inspection
from bem_fleet.data.memory_tasks import MAX_ITEMS, TASKS, haystack, memory_items, plant

from tests.support.text_digests import shared_texts

TEXT = "It was so. " * 200


@pytest.mark.parametrize("task", sorted(TASKS))
def test_items_are_answered_by_their_needles(task: str) -> None:
    """Items repeat for a seed, and what an answer needs is planted."""
    items = memory_items(task, split="train", seed=3, count=5)

    assert items == memory_items(task, split="train", seed=3, count=5)
    assert items != memory_items(task, split="train", seed=4, count=5)
    assert all(set(one.answers) <= set(one.needles) for one in items)
    assert all(one.answers and one.task == task for one in items)


def test_no_two_items_of_a_seed_share_a_name() -> None:
    """A question has one answer in a haystack of all items, up to the largest number of items."""
    owners: dict[str, tuple[str, int]] = {}
    for task in TASKS:
        for number, item in enumerate(memory_items(task, split="train", seed=1, count=MAX_ITEMS)):
            words = re.findall(r"[A-Z]?[a-z]{6,}", " ".join(item.needles))
            coined = [one for one in words if one[0].isupper()]
            for name in coined:
                assert owners.setdefault(name.lower(), (task, number)) == (task, number)
    with pytest.raises(ValueError, match="count: 101 is out of range"):
        memory_items("single", split="train", seed=1, count=MAX_ITEMS + 1)

    assert len(owners) > 1000


def test_needles_are_planted_in_their_order() -> None:
    """The text without the needles is the haystack, and each item's needles keep their order."""
    items = memory_items("latest_place", split="train", seed=0, count=4)
    planted = plant(TEXT, items, 7)
    rest = planted
    for item in items:
        places = [planted.index(needle) for needle in item.needles]
        assert places == sorted(places)
        for needle in item.needles:
            rest = rest.replace(f"{needle} ", "", 1)

    assert rest == TEXT


def test_held_out_items_are_closed_and_share_no_name() -> None:
    """Outside a final evaluation held-out items cannot be read; no name or wording is shared."""
    with pytest.raises(HeldOutClosedError):
        memory_items("single", split=HELD_OUT, seed=0, count=1)
    with pytest.raises(HeldOutClosedError):
        haystack(HELD_OUT, 100, 0)
    names = {}
    for split in ("train", HELD_OUT):
        with inspection():
            found = memory_items("single", split=split, seed=0, count=60)
        names[split] = {re.sub(r"\d+", "", one.question) for one in found}
    shared = shared_texts(names["train"], names[HELD_OUT])

    assert not shared


def test_haystack_has_the_length_and_repeats_for_a_seed() -> None:
    """Real passages are joined to any length."""
    text = haystack("train", 20_000, 1)

    assert len(text) == 20_000
    assert text == haystack("train", 20_000, 1)
    assert text != haystack("train", 20_000, 2)
