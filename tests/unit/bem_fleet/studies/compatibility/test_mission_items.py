"""Sets of the compatibility study, on development items."""

import pytest
from bem_fleet.data.held_out import HELD_OUT, HeldOutClosedError
from bem_fleet.studies.compatibility.mission_items import (
    MISSIONS,
    PASSAGE_ADAPTER,
    RECORD_ADAPTER,
    mission_items,
)


@pytest.mark.slow
@pytest.mark.parametrize("mission", MISSIONS)
def test_items_of_a_set_are_distinct_and_the_same_each_time(mission: str) -> None:
    """A longer list begins with the shorter one, so that pairs share the items of all five."""
    few, many = (mission_items(mission, "dev", count) for count in (30, 60))

    assert many[:30] == few
    assert len({one.key for one in many}) == 60
    assert all(one.golds and one.cluster and one.mission == mission for one in many)


@pytest.mark.slow
@pytest.mark.parametrize("mission", MISSIONS)
def test_held_out_items_are_closed(mission: str) -> None:
    """Nothing but a final evaluation reads them."""
    with pytest.raises(HeldOutClosedError):
        mission_items(mission, HELD_OUT, 5)


@pytest.mark.slow
def test_clients_name_adapters_in_the_sets_of_safety_and_sep() -> None:
    """Safety's set goes on with record questions when the questions about passages end."""
    safety = [one.adapter for one in mission_items("safety", "dev", 80)]

    assert set(safety) == {PASSAGE_ADAPTER, RECORD_ADAPTER}
    assert safety == sorted(safety, reverse=True)
    assert {one.adapter for one in mission_items("sep", "dev", 80)} == {PASSAGE_ADAPTER}


@pytest.mark.slow
def test_sep_asks_the_same_questions_with_other_typing_errors() -> None:
    """A second draw has the passage, the answer and the cluster of the first."""
    items = mission_items("sep", "dev", 61)
    (first, *_, again) = (one for one in items if one.key.startswith(items[-1].key[:-2]))

    assert (first.passage, first.golds) == (again.passage, again.golds)
    assert first.cluster == again.cluster
    assert first.question != again.question


@pytest.mark.slow
def test_memory_asks_for_a_value_of_its_long_text() -> None:
    """The gold answer stands in the text, behind more than one reader's context of passages."""
    items = mission_items("memory", "dev", 30)

    assert all(one.golds[0] in one.passage for one in items)
    assert len({one.cluster for one in items}) == 2
