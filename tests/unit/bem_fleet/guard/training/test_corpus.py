"""Training corpus: helpers that do not read the data sets."""

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.guard.training.corpus import (
    Sample,
    _assign_split,
    _limit_per_family,
    _subsample,
    corpus_digest,
)


def test_split_depends_on_text_and_seed_only() -> None:
    """About a quarter is dev, and the requested share held out."""
    splits = [_assign_split(str(n), 0, held_out=0.15) for n in range(2000)]

    assert splits == [_assign_split(str(n), 0, held_out=0.15) for n in range(2000)]
    assert splits != [_assign_split(str(n), 1, held_out=0.15) for n in range(2000)]
    assert abs(splits.count("dev") / 2000 - 0.25) < 0.03
    assert abs(splits.count("held_out") / 2000 - 0.15) < 0.03


def test_families_and_windows_are_limited() -> None:
    """No family has more than the limit; the choice does not depend on the order."""
    texts = [BenignText(str(n), f"t{n}", "ab"[n % 2]) for n in range(20)]
    kept = list(_limit_per_family(texts, 3))

    assert [text.family for text in kept] == ["a"] * 3 + ["b"] * 3
    assert {t.text for t in kept} == {t.text for t in _limit_per_family(texts[::-1], 3)}
    assert len(_subsample(["x", "y", "z"], 2)) == 2
    assert _subsample(["x"], 2) == ("x",)


def test_digest_covers_texts_labels_and_families() -> None:
    """It does not depend on the order of the samples."""
    first, second = Sample("t", "", "f", "dev", ()), Sample("u", "harm", "f", "dev", ())

    assert corpus_digest([first, second]) == corpus_digest([second, first])
    assert corpus_digest([first]) != corpus_digest([second])
