"""The canary's gate: promote, roll back, hold or go on, looked at as often as one likes.

Pairs of the same request answered by canary and stable (a shadow gives them) go in; requests of a
plain traffic split may be paired in order of arrival, which is as valid and needs more of them
(then give frequent, noisy metrics a ``spending``).

Errors over all looks together, whatever the correlation of the metrics:
promotion needs every metric to be shown (goals a gain, guards non-inferiority), each at
``alpha``: a canary that fails any one of them is promoted with probability at most ``alpha``
(Berger's intersection-union test);
rollback needs one metric shown worse than tolerated, so ``alpha`` is spent over the metrics by
weight: a canary that harms nothing is rolled back with probability at most ``alpha``.
Tripwires act at once; those on what stable has too take their share of that alpha.
A metric without variation is no evidence: a constant stream shows only what a bound on its mean
does show after that many items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.samples import FloatArray, fraction
from bem_fleet.stats.sequential import Question, SequentialTest
from bem_fleet.stats.spending import Spending
from bem_fleet.stats.tripwires import BurstTest, Tripwire, Watch


class Verdict(StrEnum):
    """What the gate says of a canary."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Metric:
    """One thing the canary is judged by.

    Attributes:
        name: Key of its values.
        better: Whether ``higher`` or ``lower`` values are better.
        scale: ``difference`` of scores or rates, or ``log_ratio`` of positive, unbounded values
            such as latencies: log(canary / stable), winsorised at ``reach``, so that one outlier
            counts as much as any other large value.
        reach: Largest absolute gain of one pair: 1 for scores from 0 to 1.
        required: Promotion must show a mean gain above this: 0 or more for a goal, minus the
            non-inferiority margin for a guard (log scale: ``-log(1.10)`` for 10 %).
        tolerated: A mean loss beyond this, once shown, rolls back.
        worthwhile: A mean shown to lie within this on both sides of 0 ends the canary as
            inconclusive: there is neither the gain nor a harm to wait for.
        weight: Share of the rollback's alpha.
        spending: Show a loss by sign flips that spend alpha over a known end instead of by bets.
            For frequent, noisy gains such as those of an unpaired split it needs half the pairs;
            rare events stay with bets.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["difference", "log_ratio"] = "difference"
    reach: float = 1.0
    required: float = 0.0
    tolerated: float = 0.0
    worthwhile: float | None = None
    weight: float = 1.0
    spending: Spending | None = None

    def gains(self, canary: FloatArray, stable: FloatArray) -> FloatArray:
        """Return what each pair gains, above 0 where the canary is better.

        Raises:
            InvalidScoresError: A difference beyond ``reach``, or a log-ratio of values not
                above 0.
        """
        sign = 1.0 if self.better == "higher" else -1.0
        if self.scale == "log_ratio":
            if not (canary.min() > 0 and stable.min() > 0):
                raise InvalidScoresError(f"metric {self.name!r}: a log-ratio needs values above 0")
            return sign * np.clip(np.log(canary / stable), -self.reach, self.reach)
        gains = sign * (canary - stable)
        if np.abs(gains).max() > self.reach + 1e-12:
            raise InvalidScoresError(
                f"metric {self.name!r}: a difference of {np.abs(gains).max():g} "
                f"is beyond its reach of {self.reach:g}"
            )
        return gains


@dataclass(frozen=True)
class GateSpec:
    """What a canary must show.

    Attributes:
        metrics: At least one, names distinct.
        tripwires: Checked at every request.
        alpha: Chance of a false promotion, and of a false rollback, over all looks.
        alpha_promotion: Of a false promotion alone; None: ``alpha``. Where few canaries are
            good, a fleet needs it lower: of all promotions, those of nothing are the false share.
        max_items: Pairs after which an open question is inconclusive.
    """

    metrics: tuple[Metric, ...]
    tripwires: tuple[Tripwire, ...] = ()
    alpha: float = 0.05
    alpha_promotion: float | None = None
    max_items: int = 10_000


@dataclass(frozen=True)
class Evidence:
    """What is known of one metric.

    Attributes:
        mean_gain: So far.
        p_shown: Always-valid p-value of "gain at most required".
        p_worse: Always-valid p-value of "loss at most tolerated", before spending.
    """

    mean_gain: float
    p_shown: float
    p_worse: float


@dataclass(frozen=True)
class Decision:
    """The gate's answer for one canary.

    Attributes:
        verdict: Final unless ``continue``.
        items: Pairs seen when it fell, or so far.
        reasons: Metrics and tripwires that decided, or what is still open.
        evidence: By metric.
    """

    verdict: Verdict
    items: int
    reasons: tuple[str, ...]
    evidence: Mapping[str, Evidence]


class SequentialGate:
    """Decides one canary, or ``streams`` of them side by side.

    Args:
        spec: What must be shown.
        streams: Canaries; arrays are then [streams, n].

    Raises:
        InvalidScoresError: No metric, a repeated name, or limits that make no sense.
    """

    def __init__(self, spec: GateSpec, streams: int = 1) -> None:
        names = [metric.name for metric in spec.metrics]
        if not names or len(set(names)) < len(names):
            raise InvalidScoresError(f"metrics {names}: at least one, each name once")
        if spec.max_items < 1:
            raise InvalidScoresError(f"max_items is {spec.max_items}; it starts at 1")
        if strange := {w.metric for w in spec.tripwires} - {None, *names}:
            raise InvalidScoresError(f"tripwires are of {strange}; the metrics are {names}")
        self.spec = spec
        self.items = 0
        self._streams = streams
        promotion = spec.alpha if spec.alpha_promotion is None else spec.alpha_promotion
        total = sum(metric.weight for metric in spec.metrics)
        total += sum(wire.weight for wire in spec.tripwires if wire.metric is not None)
        if not all(metric.weight > 0 for metric in spec.metrics):
            raise InvalidScoresError("each metric's weight must be above 0")
        self._tests = {
            metric.name: SequentialTest(
                Question(
                    reach=metric.reach,
                    required=metric.required,
                    tolerated=metric.tolerated,
                    worthwhile=metric.worthwhile,
                    alpha_better=fraction(promotion, "the promotion's alpha"),
                    alpha_worse=spec.alpha * metric.weight / total,
                    spending=metric.spending,
                ),
                streams,
            )
            for metric in spec.metrics
        }
        self._watches = [
            Watch(wire, self._burst_test(wire, spec.alpha * wire.weight / total), streams)
            for wire in spec.tripwires
        ]
        self._broken = np.zeros(streams, bool)
        self._verdicts = [Verdict.CONTINUE] * streams
        self._decided_at = np.zeros(streams, dtype=np.int64)
        self._reasons: list[tuple[str, ...]] = [()] * streams

    def observe(
        self,
        canary: Mapping[str, ArrayLike],
        stable: Mapping[str, ArrayLike],
        events: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Take the next pairs of every metric and look at them.

        Args:
            canary: By metric, [n] or [streams, n]. NaN or infinity is a broken canary: its stream
                is rolled back.
            stable: By metric, the same requests; must be finite.
            events: By tripwire, booleans of the canary's requests; an absent one means none.

        Raises:
            InvalidScoresError: A metric is missing, shapes differ, or values break their bounds.
        """
        blocks = {metric.name: self._gains(metric, canary, stable) for metric in self.spec.metrics}
        sizes = {block.shape[1] for block in blocks.values()}
        if len(sizes) != 1:
            raise InvalidScoresError(f"metrics come with {sorted(sizes)} pairs; one number is due")
        for name, block in blocks.items():
            self._tests[name].update(block)
        shape = next(iter(blocks.values())).shape
        for watch in self._watches:
            given = (events or {}).get(watch.wire.name)
            happened = np.zeros(shape) if given is None else self._block(given, watch.wire.name)
            watch.observe(happened.astype(bool), blocks)
        self.items += sizes.pop()
        self._look()

    def decision(self, stream: int = 0) -> Decision:
        """Return the decision on one stream; a final one stays."""
        verdict = self._verdicts[stream]
        return Decision(
            verdict=verdict,
            items=self.items if verdict is Verdict.CONTINUE else int(self._decided_at[stream]),
            reasons=self._reasons[stream],
            evidence={
                name: Evidence(
                    mean_gain=float(test.means[stream]),
                    p_shown=float(test.better.p_values[stream]),
                    p_worse=float(test.worse.p_values[stream]),
                )
                for name, test in self._tests.items()
            },
        )

    @property
    def verdicts(self) -> list[Verdict]:
        """One verdict a stream."""
        return list(self._verdicts)

    @property
    def decided_at(self) -> NDArray[np.int64]:
        """Pairs seen when each stream was decided, [streams]; 0 while open."""
        return self._decided_at.copy()

    def _block(self, values: ArrayLike, name: str) -> FloatArray:
        block = np.atleast_2d(np.asarray(values, dtype=np.float64))
        if block.ndim != 2 or len(block) != self._streams or block.shape[1] == 0:
            raise InvalidScoresError(
                f"{name!r} has shape {block.shape}; wanted [{self._streams} streams, pairs]"
            )
        return block

    def _gains(
        self, metric: Metric, canary: Mapping[str, ArrayLike], stable: Mapping[str, ArrayLike]
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

    def _burst_test(self, wire: Tripwire, alpha: float) -> BurstTest | None:
        metric = next((m for m in self.spec.metrics if m.name == wire.metric), None)
        if metric is None:
            return None
        return BurstTest(
            alpha=alpha,
            tolerated=metric.tolerated,
            reach=metric.reach,
            horizon=self.spec.max_items,
            streams=self._streams,
        )

    def _look(self) -> None:
        tests = self._tests
        shown = np.all([test.better.rejected for test in tests.values()], axis=0)
        worse = {name: test.worse.rejected for name, test in tests.items()}
        futile = {name: test.futile for name, test in tests.items()}
        tripped = {watch.wire.name: watch.tripped for watch in self._watches}
        for stream, verdict in enumerate(self._verdicts):
            if verdict is not Verdict.CONTINUE:
                continue
            bad = [f"tripwire {name}" for name, hit in tripped.items() if hit[stream]]
            bad += ["not a number"] if self._broken[stream] else []
            bad += [f"{name} is worse" for name, hit in worse.items() if hit[stream]]
            idle = [f"{name} gains too little" for name, hit in futile.items() if hit[stream]]
            if bad:
                self._settle(stream, Verdict.ROLLBACK, bad)
            elif shown[stream]:
                self._settle(stream, Verdict.PROMOTE, [f"{name} is shown" for name in tests])
            elif idle:
                self._settle(stream, Verdict.INCONCLUSIVE, idle)
            else:
                missing = [n for n, t in tests.items() if not t.better.rejected[stream]]
                waiting = [f"{name} is not shown yet" for name in missing]
                self._reasons[stream] = tuple(waiting)
                if self.items >= self.spec.max_items:
                    self._settle(stream, Verdict.INCONCLUSIVE, waiting)

    def _settle(self, stream: int, verdict: Verdict, reasons: list[str]) -> None:
        self._verdicts[stream] = verdict
        self._decided_at[stream] = self.items
        self._reasons[stream] = tuple(reasons)
