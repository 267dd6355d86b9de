"""Streams of corrections and what the methods are scored on."""

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.instruction_families import family_items, instruction_families
from bem_fleet.studies.online.correction_stream import USERS, correction_stream, study_items

FAMILIES = instruction_families("dev")[:2]


def test_wrong_corrections_have_the_form_of_right_ones() -> None:
    """A fifth of each family is the reply of another request, and the rest is what is wanted."""
    stream = correction_stream(FAMILIES, 20, 0.2, seed=3)
    for family in FAMILIES:
        own = [one for one in stream if one.family == family.name]
        wanted = {one.request: one.wanted for one in family_items(family, "stream", 20, 3)}
        wrong = [one for one in own if one.wrong]

        assert len(own) == 20
        assert len(wrong) == 4
        assert all((one.reply == wanted[one.prompt]) is not one.wrong for one in own)
        assert {one.reply for one in wrong} <= set(wanted.values())
        assert len({one.user for one in own}) == USERS
    assert [one.family for one in stream[:4]] == [one.name for one in FAMILIES] * 2
    assert stream == correction_stream(FAMILIES, 20, 0.2, seed=3)


def test_share_beyond_its_range_is_refused() -> None:
    """All wrong is no stream to learn from."""
    with pytest.raises(DataFormatError, match="wrong: 1"):
        correction_stream(FAMILIES, 4, 1, seed=0)


def test_probes_and_strangers_are_no_corrections() -> None:
    """No scored request was corrected; neighbours come from many families."""
    items = study_items(FAMILIES, 5, 30, seed=0)
    corrected = {one.prompt for one in correction_stream(FAMILIES, 100, 0.0, seed=0)}
    scored = [*(one.request for one in items.probes), *items.neighbours, *items.unrelated]

    assert (len(items.probes), len(items.neighbours), len(items.unrelated)) == (10, 30, 30)
    assert not corrected & set(scored)
    assert {one.family for one in items.probes} == {one.name for one in FAMILIES}
