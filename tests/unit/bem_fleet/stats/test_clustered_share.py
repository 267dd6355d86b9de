"""Shares of items in clusters."""

import numpy as np
import pytest
from bem_fleet.stats.clustered_share import clustered_share
from scipy.stats import binomtest


@pytest.mark.parametrize("hits", [0, 3, 60, 117, 120])
def test_independent_items_have_the_exact_interval(hits: int) -> None:
    """Without clusters interval and p-values are scipy's exact ones."""
    outcomes = np.arange(120) < hits
    found = clustered_share(outcomes, 0.4)
    interval = binomtest(hits, 120).proportion_ci(0.95, method="exact")

    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p_less == pytest.approx(binomtest(hits, 120, 0.4, "less").pvalue)
    assert found.p_greater == pytest.approx(binomtest(hits, 120, 0.4, "greater").pvalue)
    assert (found.clusters, found.effective_items) == (120, 120)


def test_one_family_that_fails_is_no_hundred_texts() -> None:
    """Twelve hits of one family of forty widen the interval; spread over twelve they do not."""
    families = [str(number // 30) for number in range(1200)]
    together = clustered_share(np.arange(1200) < 12, 0.02, item_clusters=families)
    spread = np.zeros(1200, dtype=bool)
    spread[::100] = True
    apart = clustered_share(spread, 0.02, item_clusters=families)

    assert together.share == apart.share == 0.01
    assert together.high > 0.05
    assert apart.high < 0.02
    assert together.p_less > 0.3
    assert together.effective_items < 100


def test_equal_outcomes_have_an_assumed_correlation() -> None:
    """None of 800 is not 0 of 800 independent ones, and no worse than some of them spread."""
    families = [str(number % 40) for number in range(800)]
    none = clustered_share(np.zeros(800, dtype=bool), 0.02, item_clusters=families)

    assert none.low == 0
    assert none.effective_items == pytest.approx(800 / (1 + 19 * 0.33))
    assert none.high == pytest.approx(0.033, abs=1e-3)
    assert none.p_less > 0.1
    one = clustered_share(np.ones(9, dtype=bool), 0.5, item_clusters=["a"] * 9)
    assert (one.effective_items, one.high) == (1, 1)


@pytest.mark.slow
def test_interval_covers_where_items_do_not() -> None:
    """40 families with correlation 1/3: the true share is covered, by the items' interval not."""
    rng = np.random.default_rng(11)
    families = [str(number // 15) for number in range(600)]
    clustered = plain = 0
    for _ in range(400):
        rates = rng.beta(0.1 * 2, 0.9 * 2, size=40)
        outcomes = rng.random(600) < rates.repeat(15)
        one = clustered_share(outcomes, 0.5, item_clusters=families)
        other = clustered_share(outcomes, 0.5)
        clustered += one.low <= 0.1 <= one.high
        plain += other.low <= 0.1 <= other.high

    assert clustered / 400 > 0.92
    assert plain / 400 < 0.75
