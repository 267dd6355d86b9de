"""Every way of drawing resamples has the bootstrap's own mean and spread."""

import numpy as np
import pytest
from bem_fleet.stats.resampling import make_generator, resampled_means


@pytest.mark.parametrize(
    ("n", "columns", "levels"),
    [
        (500, 1, 3),  # few values: multinomial counts
        (500, 2, 3),
        (500, 1, 0),  # gathered, with codes left over
        (512, 1, 0),  # gathered, none left over
        (701, 2, 0),
        (500, 3, 0),  # counts times table
    ],
)
def test_resampled_means_have_the_moments_of_the_bootstrap(
    n: int, columns: int, levels: int
) -> None:
    """Their mean is the sample's, their covariance the sample's over n, their skew over n too."""
    rng = np.random.default_rng(n + columns)
    table = 100 + rng.exponential(size=(n, columns))
    if levels:
        table = np.floor(table) % levels
    drawn = resampled_means(table, 40_000, make_generator(1))

    covariance = np.cov(table.T, ddof=0) / n
    error = np.sqrt(np.diag(np.atleast_2d(covariance)))
    assert np.allclose(drawn.mean(axis=0), table.mean(axis=0), atol=5 * error.max() / 200)
    assert np.allclose(np.cov(drawn.T), covariance, atol=0.05 * error.max() ** 2)


def test_large_tables_fall_back_to_counts() -> None:
    """More values than 16-bit codes are resampled as well."""
    table = np.random.default_rng(0).normal(size=(70_000, 1))

    drawn = resampled_means(table, 200, make_generator(0))

    assert drawn.std() == pytest.approx(table.std() / np.sqrt(70_000), rel=0.2)


def test_every_value_is_drawn_alike() -> None:
    """Dealing codes favours no position: each single value is drawn n times in n on average."""
    n = 300
    marked = np.arange(n, dtype=float)
    totals = [
        resampled_means(np.stack([marked == k, marked], 1).astype(float), 4_000, make_generator(k))
        for k in (0, 150, 299)
    ]

    for drawn in totals:
        assert drawn[:, 0].mean() * n == pytest.approx(1, abs=0.08)
