"""Red-team prompts: families stay on one side, drawn by a rule; categories are all there."""

import pytest
from bem_fleet.data.held_out import inspection
from bem_fleet.data.red_team import (
    ATTACK_KINDS,
    CATEGORIES,
    MAX_FAMILY_PROMPTS,
    TRAIN_ONLY_FAMILIES,
    RedTeamPrompt,
    draw_dev_families,
    load_red_team,
    sample_prompts,
)
from bem_fleet.data.red_team_sources import (
    AFTER_SLOT,
    BEFORE_SLOT,
    QUESTION_SLOT,
    REQUEST_SLOT,
    ROGUE_SLOT,
)

from tests.support.text_digests import shared_texts


def both_splits() -> list[RedTeamPrompt]:
    """Return the prompts that the loader hands out."""
    with inspection():
        return [*load_red_team("train"), *load_red_team("held_out")]


def test_no_family_and_no_text_is_on_both_sides() -> None:
    """What is held out is a way of asking that training has never seen."""
    prompts = both_splits()
    for unit in ("family", "cluster"):
        sides = [{getattr(p, unit) for p in prompts if p.split == s} for s in ("train", "held_out")]
        assert not sides[0] & sides[1]
    texts, keys, count = len({p.text for p in prompts}), {p.key for p in prompts}, len(prompts)
    assert texts == len(keys) == count
    # The one wording of these two families had emptied the held-out side of its category.
    near = {p.cluster for p in prompts if p.family.startswith("promptinject/")}
    assert len(near) == 1


def test_every_category_and_kind_is_on_both_sides() -> None:
    """A result has all of them, and none is new to training as a whole."""
    for split in ("train", "held_out"):
        with inspection():
            own = load_red_team(split)

        assert {p.split for p in own} == {split}
        assert {p.category for p in own} == set(CATEGORIES)
        assert {p.kind for p in own} == set(ATTACK_KINDS)


def test_near_duplicates_empty_no_stratum() -> None:
    """Of each category and kind at least 10 % and two clusters are left on the held-out side."""
    prompts = both_splits()
    for stratum in {(p.category, p.kind) for p in prompts}:
        own = [p for p in prompts if (p.category, p.kind) == stratum]
        held = [p.cluster for p in own if p.split == "held_out"]
        share = len(held) / len(own)

        assert 0.1 <= share <= 0.7, stratum
        assert len(set(held)) >= 2, stratum
        assert len({p.cluster for p in own} - set(held)) >= 2, stratum


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_calibration_has_every_stratum(seed: int) -> None:
    """Thresholds see each category and kind, in near-duplicate families nothing is fitted to."""
    train = load_red_team("train")
    dev = draw_dev_families(train, seed)
    strata = {(p.category, p.kind) for p in train}

    assert {(p.category, p.kind) for p in train if p.cluster in dev} == strata
    assert {(p.category, p.kind) for p in train if p.cluster not in dev} == strata


def test_prompts_are_filled_in() -> None:
    """No placeholder is left, and of a family there are no more than the limit."""
    prompts = both_splits()
    families = [p.family for p in prompts]

    for left in (
        REQUEST_SLOT,
        ROGUE_SLOT,
        BEFORE_SLOT,
        AFTER_SLOT,
        QUESTION_SLOT,
        "\0",
        "{name}",
        "[SUBSTANCE]",
        "MARKER>",
    ):
        assert not [p.key for p in prompts if left in p.text]
    assert max(families.count(name) for name in set(families)) <= MAX_FAMILY_PROMPTS


def test_families_without_a_judge_are_trained_on() -> None:
    """Nothing can tell whether they succeed, so they prove nothing when held out."""
    with inspection():
        assert not {p.family for p in load_red_team("held_out")} & TRAIN_ONLY_FAMILIES
    assert {p.family for p in load_red_team("train")} >= TRAIN_ONLY_FAMILIES


def test_sample_takes_all_categories_in_turn() -> None:
    """Both splits have every category, and the same call gives the same prompts."""
    for split in ("train", "held_out"):
        with inspection():
            prompts = load_red_team(split)
        taken = sample_prompts(prompts, 60)

        assert {p.category for p in taken[:6]} == set(CATEGORIES)
        assert [p.category for p in taken].count("harm") == 10
        assert [p.key for p in taken] == [p.key for p in sample_prompts(prompts, 60)]


def test_injections_and_records_carry_what_must_not_be_said() -> None:
    """Its judge needs the string; strings of the held-out side are never trained on."""
    prompts = [p for p in both_splits() if p.category == "injection" and p.rogue_string]

    assert all(p.rogue_string in p.text for p in both_splits())
    train, held = ([p.rogue_string for p in prompts if p.split == s] for s in ("train", "held_out"))
    shared = shared_texts(train, held)
    assert not shared
