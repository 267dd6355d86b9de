"""Examples of encoder and perceptrons."""

import random
from collections import Counter

from bem_fleet.guard.training.corpus import BENIGN, COMMENTS, Sample
from bem_fleet.guard.training.examples import (
    Example,
    _drawn_windows,
    balance_families,
    surround,
)


def test_surroundings_keep_the_text() -> None:
    """Most texts stay; the others keep their words, whatever is around them."""
    rng = random.Random(0)
    texts = [surround("Where is the harbour?", rng) for _ in range(300)]

    assert 0.6 < texts.count("Where is the harbour?") / 300 < 0.8
    assert all("where is the harbour" in text.lower() for text in texts)
    assert len(set(texts)) > 20


def test_harmless_texts_give_four_windows_and_harmful_ones_their_first() -> None:
    """All windows are served; those behind the first of a harmful text may be harmless."""
    windows = [str(number) for number in range(9)]
    clean, harmful = (Sample("text", label, "f", "train", ()) for label in (BENIGN, "harm"))
    drawn = _drawn_windows(windows, clean, 0)

    assert drawn[0] == "0"
    assert len({*drawn}) == 4
    assert drawn == _drawn_windows(windows, clean, 0)
    assert {one for seed in range(40) for one in _drawn_windows(windows, clean, seed)} == {*windows}
    assert _drawn_windows(windows[:2], clean, 0) == ["0", "1"]
    assert _drawn_windows([], clean, 0) == []
    assert _drawn_windows(windows, harmful, 0) == ["0"]


def test_families_of_a_class_weigh_the_same() -> None:
    """Large ones are cut to the mean, small ones repeated; comments are kept whole."""
    sizes = {"large": 200, "middle": 60, "small": 10, COMMENTS: 300}
    examples = [
        Example(f"{family} {number}", label, family, is_reply=True)
        for label in (0, 1)
        for family, size in sizes.items()
        for number in range(size)
    ]
    examples += [Example(f"t{n}", 1, f"templates/{n}", is_reply=True) for n in range(90)]
    balanced = balance_families(examples)
    found = Counter((one.label, one.family.partition("/")[0]) for one in balanced)

    assert found == {
        (0, "large"): 90,
        (0, "middle"): 90,
        (0, "small"): 30,
        (0, COMMENTS): 300,
        (1, "large"): 90,
        (1, "middle"): 90,
        (1, "small"): 30,
        (1, COMMENTS): 300,
        (1, "templates"): 90,
    }
    assert max(Counter(balanced).values()) == 3
    assert {*balanced} <= {*examples}
