"""Harmless text by origin."""

from bem_fleet.data.harmless import (
    SPLITS,
    SUITE,
    harmless,
    load_harmless,
    load_said,
    split_of_origins,
)


def test_no_text_and_no_strange_origin_is_in_two_splits() -> None:
    """Only the sets that the fleet is asked about are split item by item."""
    for split in SPLITS:
        for other in SPLITS[: SPLITS.index(split)]:
            own, others = harmless(split), harmless(other)

            assert not {one.text for one in own} & {one.text for one in others}
            assert {one.family for one in own} & {one.family for one in others} == set(SUITE)


def test_every_split_has_both_roles_and_borderline_requests() -> None:
    """A threshold and a result see what sounds like harm and is none."""
    for split in SPLITS:
        own = harmless(split)

        assert {one.role for one in own} == {"asked", "said"}
        assert any(one.family.startswith("borderline/") for one in own)
        assert all(len(one.text) >= 4 for one in own)
    assert set(split_of_origins().values()) == set(SPLITS)


def test_prompts_come_origin_by_origin() -> None:
    """Each has its turn, and only the passages of the adapter's own set ask the adapter."""
    found = load_harmless("held_out", sets=("nq-open", "disfl-qa"))

    assert [p.family for p in found[:4]] == ["nq-open", "disfl-qa"] * 2
    assert {p.adapter for p in found} == {"", "passage-qa"}
    assert all(p.golds for p in found)
    assert {p.role for p in load_said("held_out")} == {"said"}
