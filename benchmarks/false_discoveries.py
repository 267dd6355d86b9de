"""Simulated false discovery rate of null claims, and power for gains of training seeds.

All claims go through ``acceptance.gate_evaluation.compare_metric``. Where every claim is null, a
family with any rejection has a false discovery proportion of 1, so the FDR is the share of such
families. A claim whose t test has p above 0.1 cannot be rejected by either p-value at 5 %, so it is
not bootstrapped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bem_fleet.acceptance.catalogue import Direction
from bem_fleet.acceptance.gate_evaluation import compare_metric
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.stats.distribution import Statistic
from bem_fleet.stats.fdr import benjamini_hochberg
from bem_fleet.stats.samples import FloatArray
from scipy.special import stdtr

FAMILY_SIZE = 20
FAMILIES = 2_500
# Claims with seeds take several times as long.
SEEDED_FAMILIES = 1_000
POWER_FAMILIES = 150
ITEMS = 200
_SCREENING_P = 0.1

ScoreDraw = Callable[[np.random.Generator], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class NullClaim:
    """Null claim to simulate.

    Attributes:
        draw: Function that draws the scores of both sides, [seeds, items].
        statistic: ``difference`` or ``ratio`` of means.
        null: True value of the statistic.
        direction: Direction of a gate, whose p-value is one-sided and doubled; None for a
            comparison.
        families: Number of simulated families.
    """

    draw: ScoreDraw
    statistic: Statistic = "difference"
    null: float = 0.0
    direction: Direction | None = None
    families: int = FAMILIES


def flipped_matches(share: float, loss: float = 0.0) -> ScoreDraw:
    """Return a draw of exact matches of which a share flips, with an optional mean loss."""

    def draw(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        luck = rng.random((1, ITEMS))
        right = rng.random((1, ITEMS)) < 0.5
        lost = right & (luck < share + loss)
        won = ~right & (luck < share - loss)
        return ((right & ~lost) | won).astype(float), right.astype(float)

    return draw


def f1_like_scores(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return F1-like scores: most 0 or 1, some between, the sides correlated."""
    size = (1, ITEMS)
    shared = rng.beta(0.3, 0.6, size)
    sides = [np.where(rng.random(size) < 0.7, shared, rng.beta(0.3, 0.6, size)) for _ in range(2)]
    return sides[0], sides[1]


def latencies(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return latencies of the same requests, with the mission 15 % slower."""
    work = rng.lognormal(0, 0.6, (1, ITEMS))
    noise = [rng.lognormal(0, 0.3, (1, ITEMS)) for _ in range(2)]
    return 1.15 * work * noise[0], work * noise[1]


def seeded_matches(seeds: int, spread: float, mean: float = 0.0) -> ScoreDraw:
    """Return a draw of exact matches of training seeds whose gains vary around ``mean``."""

    def draw(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        right = rng.random((1, ITEMS)) < 0.5
        of_item = rng.random((1, ITEMS))
        luck = np.where(rng.random((1, ITEMS)) < 0.5, of_item, rng.random((seeds, ITEMS)))
        gain = rng.normal(mean, spread, (seeds, 1))
        lost, won = right & (luck < 0.2 - gain), ~right & (luck < 0.2 + gain)
        mission = ((right & ~lost) | won).astype(float)
        return mission, np.broadcast_to(right.astype(float), mission.shape)

    return draw


NULL_CLAIMS = {
    "exact match, 20 % flip": NullClaim(flipped_matches(0.2)),
    "exact match, 5 % flip": NullClaim(flipped_matches(0.05)),
    "F1-like": NullClaim(f1_like_scores),
    "gate: no worse than -1 point, at -1 point": NullClaim(
        flipped_matches(0.1, loss=0.01), null=-0.01, direction="higher"
    ),
    "gate: latency at most +15 %, at +15 %": NullClaim(latencies, "ratio", 1.15, "lower"),
    "3 seeds that agree": NullClaim(seeded_matches(3, 0.0), families=SEEDED_FAMILIES),
    "3 seeds, spread 2 points": NullClaim(seeded_matches(3, 0.02), families=SEEDED_FAMILIES),
    "3 seeds, spread 5 points": NullClaim(seeded_matches(3, 0.05), families=SEEDED_FAMILIES),
    "3 seeds, spread 10 points": NullClaim(seeded_matches(3, 0.10), families=SEEDED_FAMILIES),
    "5 seeds, spread 5 points": NullClaim(seeded_matches(5, 0.05), families=SEEDED_FAMILIES),
}
# The p-value for families and its two components.
P_VALUE_KINDS = ("p", "p_permutation", "p_inversion")


def measure_fdr() -> list[dict[str, Any]]:
    """Return the FDR of each kind of null claim, by each p-value."""
    rows = []
    for place, (name, kind) in enumerate(NULL_CLAIMS.items()):
        rng = np.random.default_rng([20, place])
        false = dict.fromkeys(P_VALUE_KINDS, 0)
        for _ in range(kind.families):
            for part, values in _family_p_values([kind] * FAMILY_SIZE, rng).items():
                false[part] += any(_rejected(values))
        shares = {part: count / kind.families for part, count in false.items()}
        error = float(np.sqrt(max(shares["p"] * (1 - shares["p"]), 1e-9) / kind.families))
        rows.append(
            {
                "claims": f"{FAMILY_SIZE} x {name}",
                "families": kind.families,
                "fdr": shares["p"],
                "standard_error": round(error, 4),
                "by_sign_flips_alone": shares["p_permutation"],
                "by_inversion_alone": shares["p_inversion"],
            }
        )
        print(rows[-1], flush=True)
    return rows


def measure_power(families: int = POWER_FAMILIES) -> list[dict[str, Any]]:
    """Return the detection rate of gains whose seeds agree.

    Each gain is tested alone at 5 %, and by Benjamini-Hochberg in families of 20 claims of which
    half have the gain; the rate in families is the mean share of detected gains.
    """
    rows = []
    for seeds in (3, 5):
        for gain in (0.05, 0.08, 0.12):
            rng = np.random.default_rng([22, seeds, int(100 * gain)])
            true = [NullClaim(seeded_matches(seeds, 0.0, gain))] * (FAMILY_SIZE // 2)
            kinds = true + [NullClaim(seeded_matches(seeds, 0.0))] * (FAMILY_SIZE - len(true))
            drawn = [_family_p_values(kinds, rng) for _ in range(families)]
            alone = [np.array(found["p"][: len(true)]) < 0.05 for found in drawn]
            in_family = [_rejected(found["p"])[: len(true)] for found in drawn]
            rows.append(
                {
                    "seeds": seeds,
                    "items": ITEMS,
                    "gain": gain,
                    "families": families,
                    "found_alone": round(float(np.mean(alone)), 3),
                    "found_in_family": round(float(np.mean(in_family)), 3),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _rejected(values: list[float]) -> list[bool]:
    family = {str(place): value for place, value in enumerate(values)}
    return [found.rejected for found in benjamini_hochberg(family).values()]


def _family_p_values(
    kinds: Sequence[NullClaim], rng: np.random.Generator
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {part: [] for part in P_VALUE_KINDS}
    for kind in kinds:
        mission, baseline = kind.draw(rng)
        factor = kind.null if kind.statistic == "ratio" else 1.0
        shift = kind.null if kind.statistic == "difference" else 0.0
        distance = (mission - factor * baseline - shift).mean(axis=0)
        t = distance.mean() / (distance.std(ddof=1) / np.sqrt(ITEMS))
        if 2 * stdtr(ITEMS - 1, -abs(t)) > _SCREENING_P:
            values = dict.fromkeys(found, 1.0)
        else:
            one = compare_metric(
                "x",
                PairedScores(mission, baseline),
                kind.statistic,
                kind.null,
                direction=kind.direction,
            )
            values = {part: float(getattr(one, part)) for part in P_VALUE_KINDS}
        for part, value in values.items():
            found[part].append(value)
    return found
