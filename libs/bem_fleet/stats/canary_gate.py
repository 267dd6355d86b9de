"""Anytime-valid statistical gate for canary promotion and rollback.

The input is pairs: the same request answered by canary and stable (mirrored traffic gives them).
Requests of a plain traffic split may be paired in order of arrival, which is equally valid and
needs more pairs; give frequent, noisy metrics an alpha-spending schedule then.

Error rates hold over all looks together, for any correlation of the metrics:

- Promotion needs every metric to be shown (a gain for goals, non-inferiority for guards), each at
  ``alpha``. A canary that fails any of them is promoted with probability at most ``alpha``
  (intersection-union test; Berger, "Multiparameter hypothesis testing and acceptance sampling",
  Technometrics 24, 1982).
- Rollback needs one metric shown worse than tolerated, so ``alpha`` is divided over the metrics by
  weight (Bonferroni). A harmless canary is rolled back with probability at most ``alpha``.
- Tripwires act at once; those on events that stable has too take a share of the rollback's alpha.

A metric without variation is no evidence of its own: a constant stream shows only what a bound on
its mean shows after that many items.

Example: metrics "quality" (required gain 0, tolerated loss 0.05) and "errors" (required gain -0.02,
tolerated loss 0.02), alpha 0.05, equal weights. Promotion needs both always-valid p-values against
"gain at most required" to reach 0.05. Rollback needs one p-value against "loss at most tolerated"
to reach 0.05 / 2 = 0.025. A canary whose errors rise by 3 points is rolled back on "errors",
whatever its quality is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_type_hints

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.samples import (
    FloatArray,
    validate_choice,
    validate_finite,
    validate_fraction,
)
from bem_fleet.stats.sequential import SequentialTest, SequentialTestSpec
from bem_fleet.stats.spending import AlphaSpending
from bem_fleet.stats.tripwires import BurstTest, Tripwire, TripwireMonitor


class CanaryVerdict(StrEnum):
    """Verdict of the gate on a canary."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class CanaryMetric:
    """Metric that decides on a canary.

    Attributes:
        name: Key of the metric's values.
        better: Whether ``higher`` or ``lower`` values are better.
        scale: ``difference`` of scores or rates, or ``log_ratio`` of positive, unbounded values
            such as latencies: log(canary / stable), winsorised at ``bound``, so that one outlier
            counts as much as any other large value.
        bound: Largest absolute gain of one pair, above 0; 1 for scores from 0 to 1.
        required_gain: Mean gain that promotion must exceed: 0 or more for a goal, minus the
            non-inferiority margin for a guard (log scale: ``-log(1.10)`` for 10 %).
        tolerated_loss: Mean loss beyond which the canary is rolled back, 0 or more.
        futility_margin: The canary ends as inconclusive once the mean is shown to lie within plus
            and minus this; None disables it.
        weight: Weight in the division of the rollback's alpha, above 0.
        spending: Alpha-spending schedule of a sign-flip test for the loss; None uses bets. On an
            unpaired split, frequent, noisy gains need half the pairs with it; rare events need
            bets.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["difference", "log_ratio"] = "difference"
    bound: float = 1.0
    required_gain: float = 0.0
    tolerated_loss: float = 0.0
    futility_margin: float | None = None
    weight: float = 1.0
    spending: AlphaSpending | None = None

    def __post_init__(self) -> None:
        """Validate the choices and ranges.

        Raises:
            InvalidScoresError: ``better`` or ``scale`` is unknown, or a number is out of its range.
        """
        hints = get_type_hints(type(self))
        for choice in ("better", "scale"):
            validate_choice(getattr(self, choice), hints[choice], f"{self.name}.{choice}")
        for field in ("bound", "required_gain", "tolerated_loss", "weight"):
            validate_finite(getattr(self, field), f"{self.name}.{field}")
        if not (self.bound > 0 and self.weight > 0 and self.tolerated_loss >= 0):
            raise InvalidScoresError(
                f"metric {self.name!r}: bound {self.bound:g}, weight {self.weight:g}, "
                f"tolerated_loss {self.tolerated_loss:g}; bound and weight lie above 0, "
                "tolerated_loss is 0 or more"
            )

    def gains(self, canary: FloatArray, stable: FloatArray) -> FloatArray:
        """Return the gain of each pair, above 0 where the canary is better.

        Args:
            canary: Values of the canary, [streams, n].
            stable: Values of stable on the same requests, [streams, n].

        Raises:
            InvalidScoresError: A difference exceeds ``bound``, or a log-ratio has values that are
                not above 0.
        """
        sign = 1.0 if self.better == "higher" else -1.0
        if self.scale == "log_ratio":
            if not (canary.min() > 0 and stable.min() > 0):
                raise InvalidScoresError(f"metric {self.name!r}: a log-ratio needs values above 0")
            return sign * np.clip(np.log(canary / stable), -self.bound, self.bound)
        gains = sign * (canary - stable)
        if np.abs(gains).max() > self.bound + 1e-12:
            raise InvalidScoresError(
                f"metric {self.name!r}: a difference of {np.abs(gains).max():g} "
                f"exceeds its bound of {self.bound:g}"
            )
        return gains


@dataclass(frozen=True)
class CanaryGateSpec:
    """Conditions for the promotion and rollback of a canary.

    Attributes:
        metrics: One metric or more, names distinct.
        tripwires: Event limits, checked at every request.
        alpha: Probability of a false promotion, and of a false rollback, over all looks, between
            0 and 1.
        alpha_promotion: Probability of a false promotion alone; None means ``alpha``. A fleet in
            which few canaries are good needs a lower value, because the false share of all
            promotions grows with the share of canaries without a gain.
        max_items: Number of pairs after which an undecided canary is inconclusive, at least 1.
    """

    metrics: tuple[CanaryMetric, ...]
    tripwires: tuple[Tripwire, ...] = ()
    alpha: float = 0.05
    alpha_promotion: float | None = None
    max_items: int = 10_000


@dataclass(frozen=True)
class MetricEvidence:
    """Evidence on one metric.

    Attributes:
        mean_gain: Mean gain so far; NaN before the first pair.
        p_shown: Always-valid p-value against "gain at most required".
        p_worse: Always-valid p-value against "loss at most tolerated", before the division of
            alpha.
    """

    mean_gain: float
    p_shown: float
    p_worse: float


@dataclass(frozen=True)
class CanaryDecision:
    """Decision of the gate on one canary.

    Attributes:
        verdict: Verdict; final unless ``continue``.
        items: Number of pairs at the decision, or so far.
        reasons: Metrics and tripwires that decided, or the conditions not met yet.
        evidence: Evidence by metric.
    """

    verdict: CanaryVerdict
    items: int
    reasons: tuple[str, ...]
    evidence: Mapping[str, MetricEvidence]


class CanaryGate:
    """Sequential gate for one canary, or for several canaries side by side.

    Args:
        spec: Conditions for promotion and rollback.
        streams: Number of canaries; arrays are [streams, n] if it exceeds 1.

    Raises:
        InvalidScoresError: There is no metric, a name is repeated, a tripwire names an unknown
            metric, or a limit is out of range.
    """

    def __init__(self, spec: CanaryGateSpec, streams: int = 1) -> None:
        names = [metric.name for metric in spec.metrics]
        if not names or len(set(names)) < len(names):
            raise InvalidScoresError(f"metrics: {names}; at least one, each name once")
        if spec.max_items < 1:
            raise InvalidScoresError(f"max_items: {spec.max_items}; it must be 1 or more")
        if unknown := {tripwire.metric for tripwire in spec.tripwires} - {None, *names}:
            raise InvalidScoresError(f"tripwires: unknown metrics {unknown}; known: {names}")
        self.spec = spec
        self.items = 0
        self._streams = streams
        promotion = spec.alpha if spec.alpha_promotion is None else spec.alpha_promotion
        total = sum(metric.weight for metric in spec.metrics)
        total += sum(tripwire.weight for tripwire in spec.tripwires if tripwire.metric is not None)
        self._tests = {
            metric.name: SequentialTest(
                SequentialTestSpec(
                    bound=metric.bound,
                    required_gain=metric.required_gain,
                    tolerated_loss=metric.tolerated_loss,
                    futility_margin=metric.futility_margin,
                    alpha_better=validate_fraction(promotion, "the promotion's alpha"),
                    alpha_worse=spec.alpha * metric.weight / total,
                    spending=metric.spending,
                ),
                streams,
            )
            for metric in spec.metrics
        }
        self._monitors = [
            TripwireMonitor(
                tripwire,
                self._burst_test(tripwire, spec.alpha * tripwire.weight / total),
                streams,
            )
            for tripwire in spec.tripwires
        ]
        self._broken = np.zeros(streams, bool)
        self._verdicts = [CanaryVerdict.CONTINUE] * streams
        self._decided_at = np.zeros(streams, dtype=np.int64)
        self._reasons: list[tuple[str, ...]] = [()] * streams

    def observe(
        self,
        canary: Mapping[str, ArrayLike],
        stable: Mapping[str, ArrayLike],
        events: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Add the next pairs of every metric and test.

        Args:
            canary: Values of the canary by metric, [n] or [streams, n]. NaN or infinity marks a
                broken canary, whose stream is rolled back.
            stable: Values of stable by metric on the same requests; they must be finite.
            events: Booleans of the canary's requests by tripwire, in the same shape; a missing
                tripwire had no event.

        Raises:
            InvalidScoresError: A metric is missing, shapes differ, or values exceed their bounds.
        """
        blocks = {metric.name: self._gains(metric, canary, stable) for metric in self.spec.metrics}
        sizes = {block.shape[1] for block in blocks.values()}
        if len(sizes) != 1:
            raise InvalidScoresError(
                f"metrics: {sorted(sizes)} pairs; all metrics need the same number"
            )
        for name, block in blocks.items():
            self._tests[name].update(block)
        shape = next(iter(blocks.values())).shape
        for monitor in self._monitors:
            name = monitor.tripwire.name
            flags = (events or {}).get(name)
            happened = np.zeros(shape) if flags is None else self._block(flags, name)
            monitor.observe(happened.astype(bool), blocks)
        self.items += sizes.pop()
        self._decide()

    def decision(self, stream: int = 0) -> CanaryDecision:
        """Return the decision on one stream; a final decision does not change."""
        verdict = self._verdicts[stream]
        return CanaryDecision(
            verdict=verdict,
            items=self.items
            if verdict is CanaryVerdict.CONTINUE
            else int(self._decided_at[stream]),
            reasons=self._reasons[stream],
            evidence={
                name: MetricEvidence(
                    mean_gain=float(test.means[stream]),
                    p_shown=float(test.better.p_values[stream]),
                    p_worse=float(test.worse.p_values[stream]),
                )
                for name, test in self._tests.items()
            },
        )

    @property
    def verdicts(self) -> list[CanaryVerdict]:
        """Verdict of each stream, [streams]."""
        return list(self._verdicts)

    @property
    def decided_at(self) -> NDArray[np.int64]:
        """Number of pairs at the decision of each stream, [streams]; 0 while undecided."""
        return self._decided_at.copy()

    def _block(self, values: ArrayLike, name: str) -> FloatArray:
        block = np.atleast_2d(np.asarray(values, dtype=np.float64))
        if block.ndim != 2 or len(block) != self._streams or block.shape[1] == 0:
            raise InvalidScoresError(
                f"{name!r}: shape {block.shape}; expected [{self._streams} streams, pairs]"
            )
        return block

    def _gains(
        self, metric: CanaryMetric, canary: Mapping[str, ArrayLike], stable: Mapping[str, ArrayLike]
    ) -> FloatArray:
        if metric.name not in canary or metric.name not in stable:
            raise InvalidScoresError(f"metric {metric.name!r} is missing on one side")
        left = self._block(canary[metric.name], metric.name)
        right = self._block(stable[metric.name], metric.name)
        if left.shape != right.shape or not np.isfinite(right).all():
            raise InvalidScoresError(
                f"metric {metric.name!r}: canary {left.shape} and stable {right.shape} must be "
                "the same requests, the stable side finite"
            )
        finite = np.isfinite(left)
        self._broken |= ~finite.all(axis=1)
        return metric.gains(np.where(finite, left, right), right)

    def _burst_test(self, tripwire: Tripwire, alpha: float) -> BurstTest | None:
        metric = next((m for m in self.spec.metrics if m.name == tripwire.metric), None)
        if metric is None:
            return None
        return BurstTest(
            alpha=alpha,
            tolerated_loss=metric.tolerated_loss,
            bound=metric.bound,
            horizon=self.spec.max_items,
            streams=self._streams,
        )

    def _decide(self) -> None:
        """Decide each open stream: rollback before promotion before inconclusive."""
        tests = self._tests
        shown = np.all([test.better.rejected for test in tests.values()], axis=0)
        worse = {name: test.worse.rejected for name, test in tests.items()}
        futile = {name: test.futile for name, test in tests.items()}
        tripped = {monitor.tripwire.name: monitor.tripped for monitor in self._monitors}
        for stream, verdict in enumerate(self._verdicts):
            if verdict is not CanaryVerdict.CONTINUE:
                continue
            bad = [f"tripwire {name}" for name, hit in tripped.items() if hit[stream]]
            bad += ["not a number"] if self._broken[stream] else []
            bad += [f"{name} is worse" for name, hit in worse.items() if hit[stream]]
            idle = [f"{name} gains too little" for name, hit in futile.items() if hit[stream]]
            if bad:
                self._settle(stream, CanaryVerdict.ROLLBACK, bad)
            elif shown[stream]:
                self._settle(stream, CanaryVerdict.PROMOTE, [f"{name} is shown" for name in tests])
            elif idle:
                self._settle(stream, CanaryVerdict.INCONCLUSIVE, idle)
            else:
                missing = [n for n, t in tests.items() if not t.better.rejected[stream]]
                waiting = [f"{name} is not shown yet" for name in missing]
                self._reasons[stream] = tuple(waiting)
                if self.items >= self.spec.max_items:
                    self._settle(stream, CanaryVerdict.INCONCLUSIVE, waiting)

    def _settle(self, stream: int, verdict: CanaryVerdict, reasons: list[str]) -> None:
        self._verdicts[stream] = verdict
        self._decided_at[stream] = self.items
        self._reasons[stream] = tuple(reasons)
