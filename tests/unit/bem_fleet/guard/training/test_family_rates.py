"""Thresholds that keep a rate of false positives over families."""

import numpy as np
import pytest
from bem_fleet.guard.training.family_rates import (
    MAX_FALSE_POSITIVE_RATES,
    TOTAL_RATE,
    WITHHOLDING,
    threshold_by_family,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

SCORES = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=40)
RATES = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.25, 0.4])


def limit(scores: list[float], families: list[str], rate: float) -> float:
    """Return the threshold without a lower limit."""
    return threshold_by_family(array(scores), families, rate, minimum=0, maximum=2)


def array(scores: list[float]) -> NDArray[np.float32]:
    """Return scores as the scorers do."""
    return np.array(scores, dtype=np.float32)


@given(SCORES, RATES)
def test_one_family_has_the_quantile_of_its_scores(scores: list[float], rate: float) -> None:
    """At most the share reaches the threshold, and of any lower score more would."""
    found, read = limit(scores, ["a"] * len(scores), rate), array(scores)
    below = read[read < found]

    assert (read >= found).sum() <= rate * len(read) + 1e-6
    # It is just above a score, at which the rate is exceeded unless it is the lowest of all.
    assert found == float(np.nextafter(below.max(), np.float32(2)))
    assert (read >= below.max()).sum() > rate * len(read) or below.max() == read.min()


@given(st.lists(SCORES, min_size=2, max_size=4), RATES, st.integers(2, 4))
def test_repeated_texts_and_copied_families_change_nothing(
    groups: list[list[float]], rate: float, copies: int
) -> None:
    """A family counts once, whatever its size; copies of one family are the family."""
    groups = [group * 20 for group in groups]  # as many texts as give a family its full weight
    scores = [one for group in groups for one in group]
    families = [str(number) for number, group in enumerate(groups) for _ in group]
    # One family is said ten times over.
    repeated = limit([*scores, *groups[0] * 9], [*families, *["0"] * 9 * len(groups[0])], rate)
    copied = [f"copy {n}" for n in range(copies) for _ in groups[0]]

    assert repeated == limit(scores, families, rate)
    assert limit(groups[0] * copies, copied, rate) == limit(groups[0], ["0"] * len(groups[0]), rate)


def test_family_of_few_texts_weighs_less() -> None:
    """One text of a family of four is no quarter of one of ten families."""
    easy, few = [0.1] * 180, [0.1] * 3 + [0.9]
    families = [str(number // 20) for number in range(180)]

    # Drawn twice, the few weigh 2 x 4 of 168 texts, and a family of full weight 2 x 20 of 200.
    assert limit([*easy, *few], [*families, *["few"] * 4], 0.02) < 0.2
    assert limit([*easy, *few * 5], [*families, *["few"] * 20], 0.02) > 0.9


def test_large_easy_family_does_not_dilute_a_hard_one() -> None:
    """Over texts the hard family would be 0.5 % of all; it is half of the families."""
    easy, hard = [0.1] * 2000, [0.1] * 5 + [0.9] * 5
    families = ["easy"] * len(easy) + ["hard"] * len(hard)
    pooled = limit([*easy, *hard], ["all"] * len(families), 0.01)

    assert pooled < 0.2
    assert limit([*easy, *hard], families, 0.01) > 0.9


def test_threshold_holds_for_other_families_than_the_mean() -> None:
    """Half of ten families err in a tenth: the mean is 5 %, but many a draw has six of them."""
    scores = [*[0.1] * 9, 0.9] * 5 + [0.1] * 50
    families = [str(number // 10) for number in range(100)]

    assert limit(scores, families, 0.05) > 0.9
    assert limit(scores, families, 0.06) < 0.2


def test_limits_of_the_threshold() -> None:
    """Low scores give the lowest threshold, and a score of 1 the highest."""
    low, high = array([0.1, 0.2]), array([1.0, 0.2])

    assert threshold_by_family(low, ["a", "b"], 0.1) == 0.5
    assert threshold_by_family(high, ["a", "b"], 0.1) == 0.9999


@pytest.mark.parametrize("families", [[], ["a"]])
def test_scores_need_their_families(families: list[str]) -> None:
    """The error states both numbers."""
    with pytest.raises(ValueError, match="families: has"):
        threshold_by_family(array([0.1] * 2 * len(families)), families, 0.1)


def test_rates_add_up_to_the_budget_of_the_guard() -> None:
    """What declines or withholds is within 1.5 %; nothing withholds beside it."""
    others = MAX_FALSE_POSITIVE_RATES.keys() - {*WITHHOLDING}

    assert sum(MAX_FALSE_POSITIVE_RATES[name] for name in WITHHOLDING) <= TOTAL_RATE + 1e-12
    assert others == {"helpfulness", "grounding"}
