"""Canary traces with known ground truth: simulated, or resampled from recorded replies.

All constants were fixed before any run.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from bem_fleet.stats.samples import FloatArray
from scipy.special import ndtr, ndtri

from benchmarks.dependent_streams import autoregressive, heavy_tails, spells
from benchmarks.gates import recorded_traces

METRICS = ("quality", "latency", "violation", "error")
# Largest number of pairs of a canary, and pairs between two looks (one minute of traffic).
HORIZON = 10_000
LOOK = 100
# Stable's level of exact match, and the share of answers that flip each way between two runs
# of equal systems.
QUALITY = 0.6
FLIP = 0.05
VIOLATION = 0.002
ERROR = 0.005
WORK_SPREAD = 0.4
NOISE_SPREAD = 0.2


@dataclass(frozen=True)
class Scenario:
    """Ground truth of a canary.

    Attributes:
        name: Name in the tables.
        gain: Absolute gain in exact match.
        slower: Factor on the latency.
        drift: Added violation rate, reached linearly over the first 2,000 requests.
        heavy: Latencies with Pareto tails (index 1.5), one-sided bursts on both arms.
        mixed: The share of easy requests wanders from 0.8 to 0.2.
        correlated: Quality, latency, violations and errors share each request's luck.
        spell: Mean number of pairs in a row that an arm's errors last, at least 1.
        memory: Correlation of an arm's latency noise in neighbouring pairs, from 0 to below 1.
        tail: Index of the Pareto tail of latencies on both arms; 0 for none.
        stalled: Share of the canary's requests that take 100 times as long.
        real: Recorded replies of the real model are resampled; only ``gain`` applies.
    """

    name: str
    gain: float = 0.0
    slower: float = 1.0
    drift: float = 0.0
    heavy: bool = False
    mixed: bool = False
    correlated: bool = False
    spell: float = 1.0
    memory: float = 0.0
    tail: float = 0.0
    stalled: float = 0.0
    real: bool = False

    @property
    def harmful(self) -> bool:
        """Whether promotion harms users."""
        return self.gain < 0 or self.slower > 1 or self.drift > 0 or self.stalled > 0

    @property
    def good(self) -> bool:
        """Whether promotion is the right decision."""
        return self.gain > 0 and not self.harmful


# In the guard scenarios (latency, drift, slow tail) the harm comes with a real gain in quality.
DRAWN_SCENARIOS = (
    Scenario("null"),
    Scenario("+1.5 %", gain=0.015),
    Scenario("-5 %", gain=-0.05),
    Scenario("latency +10 %", gain=0.015, slower=1.10),
    Scenario("safety drift", gain=0.015, drift=0.005),
    Scenario("heavy tails", heavy=True),
    Scenario("mixed traffic", mixed=True),
    Scenario("correlated metrics", correlated=True),
    Scenario("clustered errors", spell=10.0),
    Scenario("autocorrelated", memory=0.9),
    Scenario("heavier tails", tail=1.1),
    Scenario("autocorrelated -5 %", gain=-0.05, memory=0.9, spell=10.0),
    Scenario("slow tail", gain=0.015, stalled=0.1),
)
RECORDED_SCENARIOS = (Scenario("real A/A", real=True), Scenario("real -5 %", gain=-0.05, real=True))
# Replies are recorded by a run of its own (``record``); until then there is nothing to resample.
SCENARIOS = (
    (*DRAWN_SCENARIOS, *RECORDED_SCENARIOS) if recorded_traces.FILE.exists() else DRAWN_SCENARIOS
)


@dataclass(frozen=True)
class Traces:
    """Requests of many canaries of one scenario; each array is [seeds, HORIZON]."""

    scenario: Scenario
    canary: dict[str, FloatArray]
    stable: dict[str, FloatArray]

    def gains(self, name: str) -> FloatArray:
        """Return the gain of each pair in a metric, above 0 where the canary is better."""
        if name == "latency":
            return np.clip(np.log(self.stable[name] / self.canary[name]), -1, 1)
        sign = 1 if name == "quality" else -1
        return np.asarray(sign * (self.canary[name] - self.stable[name]))

    @property
    def usual(self) -> tuple[float, float]:
        """Stable's level of exact match and p95 of latency, as a long record would show them."""
        if self.scenario.real:
            return recorded_traces.stable_level("quality"), recorded_traces.stable_level(
                "latency", 0.95
            )
        spread = np.hypot(WORK_SPREAD, NOISE_SPREAD)
        return QUALITY, float(np.exp(spread * ndtri(0.95)))

    @property
    def bad(self) -> FloatArray:
        """Requests that the canary answered worse than stable did: wrong, or a violation."""
        wrong = self.canary["quality"] < self.stable["quality"]
        unsafe = self.canary["violation"] > self.stable["violation"]
        return (wrong | unsafe).astype(np.float64)

    def unpaired(self) -> "Traces":
        """Return the same canaries beside a stable that answered other requests.

        Another canary's stable, not the same one shifted: sums of shifted pairs are sums of pairs.
        """
        others = {name: np.roll(values, 1, axis=0) for name, values in self.stable.items()}
        return Traces(self.scenario, self.canary, others)


def draw_traces(scenario: Scenario, seeds: int, root: int, horizon: int = HORIZON) -> Traces:
    """Draw ``seeds`` canaries; the same root gives the same traces."""
    rng = np.random.default_rng([root, zlib.crc32(scenario.name.encode())])
    size = (seeds, horizon)
    if scenario.real:
        return Traces(scenario, *recorded_traces.draw_sides(rng, size, scenario.gain))
    luck = rng.random(size)  # of the request, shared by both arms
    hard = _hard_requests(scenario, rng, size)
    level = np.where(hard, QUALITY - 0.2, QUALITY + 0.2) if scenario.mixed else QUALITY
    right = luck < level
    draws = _canary_draws(scenario, rng, size)
    down = (FLIP - scenario.gain / 2) / level
    up = (FLIP + scenario.gain / 2) / (1 - level)
    flipped = draws["quality"] < np.where(right, down, up)
    work = rng.lognormal(0, WORK_SPREAD, size) * np.where(hard, 1.5, 1.0)
    ramp = scenario.drift * np.minimum(1, np.arange(horizon) / 2_000)
    canary = {
        "quality": np.where(flipped, ~right, right).astype(np.float64),
        "latency": scenario.slower * work * _latency_noise(scenario, draws["latency"], rng),
        "violation": (draws["violation"] < VIOLATION + ramp).astype(np.float64),
        "error": (draws["error"] < ERROR).astype(np.float64),
    }
    stable = {
        "quality": right.astype(np.float64),
        "latency": work * _latency_noise(scenario, rng.random(size), rng),
        "violation": (rng.random(size) < VIOLATION).astype(np.float64),
        "error": (rng.random(size) < ERROR).astype(np.float64),
    }
    _add_dependence(scenario, rng, canary, stable)
    return Traces(scenario, canary, stable)


def _add_dependence(
    scenario: Scenario,
    rng: np.random.Generator,
    canary: dict[str, FloatArray],
    stable: dict[str, FloatArray],
) -> None:
    """Change both arms in place; other scenarios draw nothing, so that their traces stay."""
    size = canary["latency"].shape
    for side in (canary, stable):
        if scenario.spell > 1:
            side["error"] = spells(rng, size, ERROR, scenario.spell)
        if scenario.memory:
            side["latency"] *= np.exp(NOISE_SPREAD * autoregressive(rng, size, scenario.memory))
        if scenario.tail:
            side["latency"] *= heavy_tails(rng, size, scenario.tail)
    if scenario.stalled:
        canary["latency"] *= np.where(rng.random(size) < scenario.stalled, 100.0, 1.0)


def _hard_requests(
    scenario: Scenario, rng: np.random.Generator, size: tuple[int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if not scenario.mixed:
        return np.zeros(size, dtype=bool)
    return np.asarray(rng.random(size) < np.linspace(0.2, 0.8, size[1]))


def _canary_draws(
    scenario: Scenario, rng: np.random.Generator, size: tuple[int, int]
) -> dict[str, FloatArray]:
    """Return uniform draws of the canary's arm, through one common factor if correlated."""
    if not scenario.correlated:
        return {name: rng.random(size) for name in METRICS}
    common = rng.standard_normal(size) * np.sqrt(0.7)
    return {
        name: np.asarray(ndtr(common + np.sqrt(0.3) * rng.standard_normal(size)))
        for name in METRICS
    }


def _latency_noise(scenario: Scenario, uniform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the factor of an arm on the latency of a request."""
    factor = np.exp(NOISE_SPREAD * ndtri(np.clip(uniform, 1e-12, 1 - 1e-12)))
    if scenario.heavy:
        factor = factor * (1 + 0.2 * rng.pareto(1.5, uniform.shape))
    return np.asarray(factor)
