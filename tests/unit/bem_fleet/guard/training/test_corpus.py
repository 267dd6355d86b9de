"""Training corpus: limits, splits, and no overlap with what the report opens."""

import re

import pytest
from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.guard_texts import parallel_texts, written_texts
from bem_fleet.data.held_out import inspection
from bem_fleet.guard.training.corpus import (
    FITTED_SPLITS,
    Sample,
    _assign_split,
    _limit_per_family,
    _subsample,
    corpus_digest,
    limit_families,
    request_samples,
    response_samples,
)

from tests.support.text_digests import shared_texts, text_digest


def test_split_depends_on_group_and_seed_only() -> None:
    """About a quarter is dev, and nothing is held out: that is no seed's choice."""
    splits = [_assign_split(str(n), 0) for n in range(2000)]

    assert splits == [_assign_split(str(n), 0) for n in range(2000)]
    assert splits != [_assign_split(str(n), 1) for n in range(2000)]
    assert abs(splits.count("dev") / 2000 - 0.25) < 0.03
    assert set(splits) == {"train", "dev"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_attacks_of_one_family_are_in_one_split(seed: int) -> None:
    """A threshold is not calibrated on wordings of what was trained on; nothing is held out."""
    samples = request_samples(seed)
    attacks = [sample for sample in samples if sample.label]
    families = {
        split: {one.family for one in attacks if one.split == split} for split in FITTED_SPLITS
    }

    assert {sample.split for sample in samples} == set(FITTED_SPLITS)
    assert families["dev"]
    assert not families["train"] & families["dev"]


def test_families_and_windows_are_limited() -> None:
    """No family has more than the limit; the choice does not depend on the order."""
    texts = [BenignText(str(n), f"t{n}", "ab"[n % 2]) for n in range(20)]
    kept = list(_limit_per_family(texts, 3))

    assert [text.family for text in kept] == ["a"] * 3 + ["b"] * 3
    assert set(kept) == set(_limit_per_family(texts[::-1], 3))
    assert len(_subsample(["x", "y", "z"], 2)) == 2
    assert _subsample(["x"], 2) == ("x",)


def test_digest_covers_texts_labels_and_families() -> None:
    """It does not depend on the order of the samples."""
    first, second = Sample("t", "", "f", "dev", ()), Sample("u", "harm", "f", "dev", ())

    assert corpus_digest([first, second]) == corpus_digest([second, first])
    assert corpus_digest([first]) != corpus_digest([second])


def grams(text: str, size: int = 8) -> set[tuple[str, ...]]:
    """Return the word n-grams of a normalized text; a shorter text has none."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def test_packaged_families_are_limited_and_written_ones_whole() -> None:
    """Templates of jailbreaks count as one family; no other split is in the result."""
    samples = [
        Sample(f"{family} {n}", "harm", family, "train", ())
        for family, count in (("harmbench", 50), ("train_harmful/x", 50), ("jigsaw", 50))
        for n in range(count)
    ]
    samples += [Sample(str(n), "jailbreak", f"templates/{n}", "train", ()) for n in range(200)]
    samples += [Sample(f"b{n}", "", "boolq", "train", ()) for n in range(40)]
    samples.append(Sample("d", "harm", "harmbench", "dev", ()))
    kept = [sample.family.partition("/")[0] for sample in limit_families(samples, "train")]

    assert {name: kept.count(name) for name in kept} == {
        "harmbench": 40,
        "train_harmful": 50,
        "jigsaw": 50,
        "templates": 70,
        "boolq": 14,
    }


@pytest.mark.slow
def test_nothing_fitted_or_calibrated_on_is_in_the_held_out_sets() -> None:
    """No text, no family and no run of eight words of the whole corpus, packaged texts included."""
    fitted = [*request_samples(0), *response_samples(0)]
    with inspection():
        written = written_texts("held_out")
        held = [item.text for item in written]
        held += [text for row in parallel_texts() for text in row.texts]
    runs = set().union(*map(grams, held))
    texts = {" ".join(re.findall(r"\w+", text.lower())) for text in held}

    assert not {s.family for s in fitted} & {item.family for item in written}
    assert not [text_digest(sample.text) for sample in fitted if grams(sample.text) & runs]
    words = [" ".join(re.findall(r"\w+", sample.text.lower())) for sample in fitted]
    shared = shared_texts(words, texts)
    assert not shared
