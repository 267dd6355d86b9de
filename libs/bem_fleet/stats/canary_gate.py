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
- Floors bound the canary alone. Two tracks that fail alike are equal in every comparison, so a
  promotion also needs the share of answered requests to be shown, at ``alpha``.

A metric without variation is no evidence of its own: a constant stream shows only what a bound on
its mean shows after that many items. A pair that is marked as missing for a metric is no evidence
for it, neither of a gain nor of equality. Autocorrelation divides the evidence
(``bem_fleet.stats.dependence``).

The gate looks after each ``look`` pairs, counted from the first; further pairs wait. A decision is
therefore a function of the pairs in their order, bit for bit, however they were divided over calls
and whether or not the gate was made anew in between.

Example: metrics "quality" (required gain 0, tolerated loss 0.05) and "errors" (required gain -0.02,
tolerated loss 0.02), alpha 0.05, equal weights. Promotion needs both always-valid p-values against
"gain at most required" to reach 0.05. Rollback needs one p-value against "loss at most tolerated"
to reach 0.05 / 2 = 0.025, whatever the other metric shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.canary_floors import CanaryFloor, FloorTest
from bem_fleet.stats.canary_metrics import CanaryMetric, TailThreshold
from bem_fleet.stats.samples import FloatArray, validate_fraction
from bem_fleet.stats.tripwires import BurstTest, Tripwire, TripwireMonitor

Block = Mapping[str, FloatArray]


class CanaryVerdict(StrEnum):
    """Verdict of the gate on a canary."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class CanaryGateSpec:
    """Conditions for the promotion and rollback of a canary.

    Attributes:
        metrics: One metric or more, names distinct.
        tripwires: Event limits, checked at every request.
        floors: Shares of the canary's requests that promotion requires.
        alpha: Probability of a false promotion, and of a false rollback, over all looks, between
            0 and 1.
        alpha_promotion: Probability of a false promotion alone; None means ``alpha``. A fleet in
            which few canaries are good needs a lower value, because the false share of all
            promotions grows with the share of canaries without a gain.
        max_items: Number of pairs after which an undecided canary is inconclusive, at least 1.
        look: Number of pairs between two looks, at least 1.
    """

    metrics: tuple[CanaryMetric, ...]
    tripwires: tuple[Tripwire, ...] = ()
    alpha: float = 0.05
    alpha_promotion: float | None = None
    max_items: int = 10_000
    floors: tuple[CanaryFloor, ...] = ()
    look: int = 10


@dataclass(frozen=True)
class MetricEvidence:
    """Evidence on one metric.

    Attributes:
        mean_gain: Mean gain so far, of a floor the share less the level; NaN before the first
            pair.
        p_shown: Always-valid p-value against "gain at most required".
        p_worse: Always-valid p-value against "loss at most tolerated", before the division of
            alpha; 1 for a floor.
        pairs: Number of pairs that are evidence.
        correlation_time: Number of pairs that carry the information of one, at least 1.
    """

    mean_gain: float
    p_shown: float
    p_worse: float
    pairs: int = 0
    correlation_time: float = 1.0


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
        _validate(spec)
        self.spec = spec
        self.items = 0
        self._streams = streams
        promotion = spec.alpha if spec.alpha_promotion is None else spec.alpha_promotion
        validate_fraction(promotion, "the promotion's alpha")
        total = sum(metric.weight for metric in spec.metrics)
        total += sum(tripwire.weight for tripwire in spec.tripwires if tripwire.metric is not None)
        self._tests = {
            metric.name: metric.sequential_test(
                promotion, spec.alpha * metric.weight / total, streams
            )
            for metric in spec.metrics
        }
        self._tails = {
            metric.name: TailThreshold(metric, streams)
            for metric in spec.metrics
            if metric.scale == "tail"
        }
        self._floors = {floor.name: FloorTest(floor, promotion, streams) for floor in spec.floors}
        self._monitors = [
            TripwireMonitor(
                tripwire,
                self._burst_test(tripwire, spec.alpha * tripwire.weight / total),
                streams,
            )
            for tripwire in spec.tripwires
        ]
        self._waiting: dict[str, FloatArray] = {}
        self._broken = np.zeros(streams, bool)
        self._verdicts = [CanaryVerdict.CONTINUE] * streams
        self._decided_at = np.zeros(streams, dtype=np.int64)
        self._reasons: list[tuple[str, ...]] = [()] * streams

    def observe(
        self,
        canary: Mapping[str, ArrayLike],
        stable: Mapping[str, ArrayLike],
        events: Mapping[str, ArrayLike] | None = None,
        missing: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Add the next pairs and look after each ``look`` of them.

        Args:
            canary: Values of the canary by key of the metrics and floors, [n] or [streams, n]. NaN
                or infinity marks a broken canary, whose stream is rolled back.
            stable: Values of stable by key of the metrics on the same requests; they must be
                finite.
            events: Booleans of the canary's requests by tripwire, in the same shape; a missing
                tripwire had no event.
            missing: Booleans by metric, in the same shape: pairs that are no evidence for it. A
                missing metric has evidence in every pair.

        Raises:
            InvalidScoresError: A key is missing, shapes differ, or values exceed their bounds.
        """
        rows = self._rows(canary, stable, events or {}, missing or {})
        if self._waiting:
            rows = {
                key: np.concatenate([self._waiting[key], block], axis=1)
                for key, block in rows.items()
            }
        pairs = next(iter(rows.values())).shape[1]
        for start in range(0, pairs - self.spec.look + 1, self.spec.look):
            if CanaryVerdict.CONTINUE not in self._verdicts:
                break
            # Copies, so that the arrays of a look have one layout whatever they were cut from.
            self._look(
                {k: block[:, start : start + self.spec.look].copy() for k, block in rows.items()}
            )
        left = pairs - pairs % self.spec.look
        self._waiting = {key: block[:, left:] for key, block in rows.items()}

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
                **{
                    name: MetricEvidence(
                        mean_gain=float(test.means[stream]),
                        p_shown=float(test.better.p_values[stream]),
                        p_worse=float(test.worse.p_values[stream]),
                        pairs=int(test.counts[stream]),
                        correlation_time=float(test.dependence.times[stream]),
                    )
                    for name, test in self._tests.items()
                },
                **{
                    name: MetricEvidence(
                        mean_gain=float(test.shares[stream]) - test.floor.level,
                        p_shown=float(test.test.p_values[stream]),
                        p_worse=1.0,
                        pairs=int(test.dependence.counts[stream]),
                        correlation_time=float(test.dependence.times[stream]),
                    )
                    for name, test in self._floors.items()
                },
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

    def _rows(
        self,
        canary: Mapping[str, ArrayLike],
        stable: Mapping[str, ArrayLike],
        events: Mapping[str, ArrayLike],
        missing: Mapping[str, ArrayLike],
    ) -> dict[str, FloatArray]:
        """Return all values of the pairs, [streams, n] each, by ``<kind> <name>``."""
        rows = {}
        for metric in self.spec.metrics:
            if metric.key not in canary or metric.key not in stable:
                raise InvalidScoresError(f"metric {metric.name!r} is missing on one side")
            left = self._block(canary[metric.key], metric.name)
            right = self._block(stable[metric.key], metric.name)
            if left.shape != right.shape or not np.isfinite(right).all():
                raise InvalidScoresError(
                    f"metric {metric.name!r}: canary {left.shape} and stable {right.shape} must be "
                    "the same requests, the stable side finite"
                )
            absent = missing.get(metric.name, np.zeros(left.shape))
            skipped = self._block(absent, metric.name) > 0
            finite = np.where(np.isfinite(left), left, right)
            if metric.scale != "tail":
                metric.gains(np.where(skipped, 1.0, finite), np.where(skipped, 1.0, right))
            rows[f"canary {metric.name}"], rows[f"stable {metric.name}"] = left, right
            rows[f"missing {metric.name}"] = skipped.astype(np.float64)
        shape = next(iter(rows.values())).shape
        for floor in self.spec.floors:
            if floor.name not in canary:
                raise InvalidScoresError(f"floor {floor.name!r} has no values")
            rows[f"floor {floor.name}"] = self._block(canary[floor.name], floor.name)
        for tripwire in self.spec.tripwires:
            flags = events.get(tripwire.name, np.zeros(shape))
            rows[f"event {tripwire.name}"] = self._block(flags, tripwire.name)
        if sizes := {block.shape[1] for block in rows.values()} - {shape[1]}:
            raise InvalidScoresError(
                f"metrics: {sorted({shape[1], *sizes})} pairs; all metrics need the same number"
            )
        return rows

    def _look(self, rows: Block) -> None:
        """Test with the pairs of one look and decide."""
        blocks = {metric.name: self._gains(metric, rows) for metric in self.spec.metrics}
        for name, block in blocks.items():
            self._tests[name].update(block)
        for name, floor in self._floors.items():
            floor.update(rows[f"floor {name}"])
        for monitor in self._monitors:
            monitor.observe(rows[f"event {monitor.tripwire.name}"].astype(bool), blocks)
        self.items += self.spec.look
        self._decide()

    def _gains(self, metric: CanaryMetric, rows: Block) -> FloatArray:
        """Return the gains of one look, [streams, n]; NaN where a pair is no evidence."""
        left, right = rows[f"canary {metric.name}"], rows[f"stable {metric.name}"]
        missing = rows[f"missing {metric.name}"] > 0
        finite = np.isfinite(left)
        self._broken |= ~finite.all(axis=1)
        left = np.where(finite, left, right)
        if metric.scale == "tail":
            sides = (np.where(missing, np.nan, side) for side in (left, right))
            return self._tails[metric.name].gains(*sides)
        gains = metric.gains(np.where(missing, 1.0, left), np.where(missing, 1.0, right))
        return np.where(missing, np.nan, gains)

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
        floors = self._floors
        shown = np.all(
            [
                *(test.better.rejected for test in tests.values()),
                *(floor.rejected for floor in floors.values()),
            ],
            axis=0,
        )
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
                why = [f"{name} is shown" for name in (*tests, *floors)]
                self._settle(stream, CanaryVerdict.PROMOTE, why)
            elif idle:
                self._settle(stream, CanaryVerdict.INCONCLUSIVE, idle)
            else:
                missing = [n for n, t in tests.items() if not t.better.rejected[stream]]
                waiting = [f"{name} is not shown yet" for name in missing]
                waiting += [
                    f.open_condition(stream) for f in floors.values() if not f.rejected[stream]
                ]
                self._reasons[stream] = tuple(waiting)
                if self.items >= self.spec.max_items:
                    self._settle(stream, CanaryVerdict.INCONCLUSIVE, waiting)

    def _settle(self, stream: int, verdict: CanaryVerdict, reasons: list[str]) -> None:
        self._verdicts[stream] = verdict
        self._decided_at[stream] = self.items
        self._reasons[stream] = tuple(reasons)


def _validate(spec: CanaryGateSpec) -> None:
    names = [metric.name for metric in spec.metrics]
    keys = [*names, *(floor.name for floor in spec.floors)]
    if not names or len(set(keys)) < len(keys):
        raise InvalidScoresError(f"metrics: {keys}; at least one, each name once")
    if spec.max_items < 1 or spec.look < 1:
        raise InvalidScoresError(
            f"max_items: {spec.max_items}, look: {spec.look}; both must be 1 or more"
        )
    if unknown := {tripwire.metric for tripwire in spec.tripwires} - {None, *names}:
        raise InvalidScoresError(f"tripwires: unknown metrics {unknown}; known: {names}")
