"""Red-team prompts: families stay on one side, drawn by a rule; categories are all there."""

from bem_fleet.data.held_out import inspection
from bem_fleet.data.red_team import (
    ATTACK_KINDS,
    CATEGORIES,
    MAX_FAMILY_PROMPTS,
    TRAIN_ONLY_FAMILIES,
    RedTeamPrompt,
    held_out_families,
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


def both_splits() -> list[RedTeamPrompt]:
    """Return the prompts that the loader hands out."""
    with inspection():
        return [*load_red_team("train"), *load_red_team("held_out")]


def test_no_family_and_no_text_is_on_both_sides() -> None:
    """What is held out is a way of asking that training has never seen."""
    prompts = both_splits()
    sides = {
        split: {p.family for p in prompts if p.split == split} for split in ("train", "held_out")
    }

    assert not sides["train"] & sides["held_out"]
    assert len({p.text for p in prompts}) == len({p.key for p in prompts}) == len(prompts)


def test_every_category_and_kind_is_on_both_sides() -> None:
    """A result has all of them, and none is new to training as a whole."""
    for split in ("train", "held_out"):
        with inspection():
            own = load_red_team(split)

        assert {p.split for p in own} == {split}
        assert {p.category for p in own} == set(CATEGORIES)
        assert {p.kind for p in own} == set(ATTACK_KINDS)


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
        assert not [p for p in prompts if left in p.text]
    assert max(families.count(name) for name in set(families)) <= MAX_FAMILY_PROMPTS


def test_the_draw_holds_out_by_its_rule() -> None:
    """Enough prompts are held out, never the rule's exceptions, and never all of a stratum."""
    sizes = {f"f{n}": ("harm/direct", 10) for n in range(10)}
    sizes |= {"big": ("bias/direct", 60), "small": ("bias/direct", 20), "alone": ("x/direct", 5)}
    held = held_out_families(sizes)

    assert len([name for name in held if name.startswith("f")]) == 3
    assert "small" in held
    assert not held & {"big", "alone", *TRAIN_ONLY_FAMILIES}
    assert held == held_out_families(dict(reversed(sizes.items())))


def test_sample_takes_all_categories_in_turn() -> None:
    """Both splits have every category, and the same call gives the same prompts."""
    for split in ("train", "held_out"):
        with inspection():
            prompts = load_red_team(split)
        taken = sample_prompts(prompts, 60)

        assert {p.category for p in taken[:6]} == set(CATEGORIES)
        assert [p.category for p in taken].count("harm") == 10
        assert taken == sample_prompts(prompts, 60)


def test_injections_and_records_carry_what_must_not_be_said() -> None:
    """Its judge needs the string; strings of the held-out side are never trained on."""
    prompts = [p for p in both_splits() if p.category == "injection" and p.rogue_string]

    assert all(p.rogue_string in p.text for p in both_splits())
    train = {p.rogue_string for p in prompts if p.split == "train"}
    assert not train & {p.rogue_string for p in prompts if p.split == "held_out"}
