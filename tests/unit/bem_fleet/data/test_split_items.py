"""Items of all sets."""

import pytest
from bem_fleet.data.split_items import SPLIT_ORDER, split_items


@pytest.mark.slow
def test_scope_skills_has_its_sets_with_unique_keys() -> None:
    """Every set has its three splits; a key names one item, with a cluster."""
    items = split_items("skills")
    names = {item.set_name for item in items}

    assert names == {"passage-qa", "facts", "compositions"}
    for name in names:
        own = [item for item in items if item.set_name == name]
        assert {item.split for item in own} == set(SPLIT_ORDER)
        assert all(item.cluster and len(item.keys) for item in own)


@pytest.mark.slow
def test_scope_records_has_subjects_and_chains() -> None:
    """The unit of resampling is the subject or the chain, never a question."""
    items = split_items("records")

    assert {item.set_name for item in items} == {"record-facts", "record-chains"}
    assert {item.split for item in items} == set(SPLIT_ORDER)
    assert all(item.cluster and len(item.keys) for item in items)
