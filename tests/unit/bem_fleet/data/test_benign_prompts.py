"""Harmless text by origin."""

from collections.abc import Iterator

import pytest
from bem_fleet.data import benign_prompts
from bem_fleet.data.benign_prompts import (
    CHOICE_ORIGINS,
    QUALITY_SETS,
    SPLITS,
    benign_texts,
    load_benign_requests,
    load_benign_responses,
    origin_splits,
)
from bem_fleet.data.held_out import inspection
from bem_fleet.data.multiple_choice import ORIGINS

from tests.support.text_digests import shared_texts


@pytest.fixture(autouse=True)
def _inspection() -> Iterator[None]:
    """These tests compare texts; nothing is scored."""
    with inspection():
        yield


def test_no_text_and_no_strange_origin_is_in_two_splits() -> None:
    """Only the sets that the fleet is asked about are split item by item."""
    for split in SPLITS:
        for other in SPLITS[: SPLITS.index(split)]:
            own, others = benign_texts(split), benign_texts(other)
            shared = shared_texts((one.text for one in own), (one.text for one in others))

            assert not shared
            assert {one.family for one in own} & {one.family for one in others} == set(QUALITY_SETS)


def test_every_split_has_both_roles_and_borderline_requests() -> None:
    """A threshold and a result see what sounds like harm and is none."""
    for split in SPLITS:
        own = benign_texts(split)

        assert {one.role for one in own} == {"request", "response"}
        assert any(one.family.startswith("borderline/") for one in own)
        assert all(len(one.text) >= 4 for one in own)
    assert set(origin_splits().values()) == set(SPLITS)


def test_prompts_come_origin_by_origin() -> None:
    """Each has its turn, and only the passages of the adapter's own set ask the adapter."""
    found = load_benign_requests("held_out", sets=("nq-open", "disfl-qa"))

    assert [p.family for p in found[:4]] == ["nq-open", "disfl-qa"] * 2
    assert {p.adapter for p in found} == {"", "passage-qa"}
    assert all(p.golds for p in found)
    assert {p.role for p in load_benign_responses("held_out")} == {"response"}


@pytest.mark.parametrize("draw", range(5))
def test_origins_of_the_choice_suite_are_held_out_in_every_draw(
    monkeypatch: pytest.MonkeyPatch, draw: int
) -> None:
    """The other origins are drawn, a fifth of them to be held out as well."""
    monkeypatch.setattr(benign_prompts, "SPLIT_DRAW_SEED", draw)
    splits = origin_splits.__wrapped__()
    held = {name for name, split in splits.items() if split == "held_out" and "/" not in name}

    assert ORIGINS.keys() == {*CHOICE_ORIGINS}
    assert held > {*CHOICE_ORIGINS}
    assert len(held) == len(CHOICE_ORIGINS) + 5
    assert splits.keys() == origin_splits().keys()
