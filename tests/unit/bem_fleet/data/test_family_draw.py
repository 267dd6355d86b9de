"""Draw of held-out families: near-duplicate families stay whole, and no stratum is emptied."""

from collections import Counter

from bem_fleet.data.family_draw import (
    HELD_OUT_SHARE,
    MAX_HELD_OUT_SHARE,
    draw_held_out,
    near_duplicate_families,
)
from bem_fleet.data.near_duplicates import text_keys
from hypothesis import given
from hypothesis import strategies as st


def test_families_with_a_common_wording_are_one() -> None:
    """The chain of families is closed transitively; other families keep their name."""
    texts = [
        ("ignore", "one two three four five six seven eight and then something else"),
        ("stop", "before it one two three four five six seven eight"),
        ("stop", "another order that nobody else gives in these very words"),
        ("hidden", "well, another order that nobody else gives in these very words"),
        ("apart", "four words of its own"),
    ]
    families = [family for family, _ in texts]

    near = near_duplicate_families(families, [text_keys(text) for _, text in texts])

    assert near == {"ignore": "hidden", "stop": "hidden", "hidden": "hidden", "apart": "apart"}


def test_draw_depends_on_content_and_seed_alone() -> None:
    """The order of the texts changes nothing; another seed holds out others."""
    texts = [(f"f{n}", "harm/direct") for n in range(30) for _ in range(5)]
    held = draw_held_out(texts, 1)

    assert held == draw_held_out(texts[::-1], 1)
    assert held != draw_held_out(texts, 2)
    assert len(held) == HELD_OUT_SHARE * 30


def test_large_and_judgeless_families_stay() -> None:
    """More than half of a stratum cannot be held out, however the draw falls."""
    texts = [("big", "bias")] * 60 + [(f"b{n}", "bias") for n in range(8) for _ in range(5)]
    for seed in range(20):
        held = draw_held_out(texts, seed, train_only=["b0"])

        assert not held & {"big", "b0"}
        assert len(held) == 4  # half of nine families at most, before 30 % of the texts


def test_family_of_two_strata_counts_in_both() -> None:
    """A family that would empty a small stratum stays, though a large one could spare it."""
    texts = [("shared", "small"), ("own", "small"), ("shared", "large")]
    texts += [(f"l{n}", "large") for n in range(9) for _ in range(4)]
    for seed in range(20):
        held = draw_held_out(texts, seed)
        in_small = held & {"shared", "own"}

        assert len(in_small) == 1
        assert len(held & {f"l{n}" for n in range(9)}) in (3, 2)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=1, max_size=150),
    st.integers(0, 5),
)
def test_strata_are_never_emptied(drawn: list[tuple[int, str]], seed: int) -> None:
    """Whatever the sizes, training keeps half of each stratum's families and 40 % of its texts.

    Where two families of one stratum have equal shares, one of them is held out.
    """
    texts = [(f"f{number}", stratum) for number, stratum in drawn]
    held = draw_held_out(texts, seed)
    for stratum in {stratum for _, stratum in texts}:
        counts = Counter(family for family, own in texts if own == stratum)
        taken = {family: count for family, count in counts.items() if family in held}

        assert 2 * len(taken) <= len(counts)
        assert sum(taken.values()) <= MAX_HELD_OUT_SHARE * counts.total()


@given(st.lists(st.integers(2, 12), min_size=1, max_size=6), st.integers(0, 5))
def test_every_stratum_of_even_families_is_held_out(families: list[int], seed: int) -> None:
    """No stratum with two families of its own is left without a held-out one."""
    texts = [
        (f"{stratum}/{family}", str(stratum))
        for stratum, count in enumerate(families)
        for family in range(count)
        for _ in range(4)
    ]

    assert {one.split("/")[0] for one in draw_held_out(texts, seed)} == {
        str(stratum) for stratum in range(len(families))
    }
