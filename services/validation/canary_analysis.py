"""Canary analysis: sequential gates over request pairs and probes of both tracks.

All observations of a canary lie in Redis, and the gates are deterministic functions of them in
order, so the verdict is the same after a restart.

Example: terms with ``error_margin`` 0.15, ``violation_margin`` 0.15, ``latency_margin`` 1.5 and
``alpha`` 0.05, without probes. The gate watches three metrics of each pair: errors and violations
(0 or 1 on each track; the canary may be worse by 15 percentage points) and the log ratio of
latencies (the canary may be slower by a factor of 1.5).

- After 5 pairs without incident nothing is shown: ``continue``.
- After about 35 such pairs the e-process on each metric exceeds 1 / 0.05, so it is shown that
  each metric is worse by less than its margin: ``promote``.
- If the canary fails all requests instead, ten errors within the last 50 requests hit the
  tripwire, and the pairs show that stable has none: ``rollback`` after about ten pairs.

The verdict is valid at every look: the e-processes bound the probability of ever promoting a bad
canary, or of ever rolling back a good one, by ``alpha``, however often the analysis is requested.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bem_fleet.scores.answer_match import best_over_golds, f1
from bem_fleet.services.validation.canary_observations import (
    FIRST,
    CanaryObservations,
    Pair,
    ProbeScore,
)
from bem_fleet.services.validation.probe_client import ProbeClient, ProbeTarget
from bem_fleet.stats.canary_gate import (
    CanaryDecision,
    CanaryGate,
    CanaryGateSpec,
    CanaryMetric,
    CanaryVerdict,
    MetricEvidence,
)
from bem_fleet.stats.tripwires import Tripwire
from bemfleet.validation.v1 import validation_pb2 as pb
from prometheus_client import Counter

TRIPWIRE_WINDOW = 50
"""Number of latest requests in which a tripwire counts incidents."""
# Largest log ratio of latencies that counts: a single stalled request must not decide alone.
_MAX_LOG_RATIO = math.log(4)
_MIN_LATENCY_S = 1e-6
_MAX_CANARIES = 256
# Limits of one analysis: it must respond in time even if both tracks are slow. Scores that were
# taken are kept, so the next analysis continues.
_MAX_PROBES, _PROBING_LIMIT_S = 8, 15.0
# Share of alpha that live traffic may spend on a false rollback if probes share it.
_LIVE_SHARE = 0.75
ANALYSES = Counter(
    "bem_validation_canary_analyses_total", "Canary analyses, by verdict.", ["verdict"]
)


@dataclass(frozen=True)
class AnalysisTerms:
    """Terms of a canary analysis; margins are how much worse the canary may be.

    Attributes:
        alpha: Probability of a false rollback, and of a false promotion, over all analyses.
        max_pairs: Number of pairs after which the canary is inconclusive.
        error_margin: Difference of error rates.
        violation_margin: Difference of the rates of withheld answers.
        latency_margin: Ratio of request latencies, above 1.
        quality_margin: Difference of mean F1 on the probes.
        error_limit: Errors within the tripwire's window that roll back at once, when the pairs
            show that stable has fewer.
        violation_limit: Withheld answers within the window that roll back at once, likewise.
    """

    alpha: float
    max_pairs: int
    error_margin: float
    violation_margin: float
    latency_margin: float
    quality_margin: float
    error_limit: int
    violation_limit: int


@dataclass(frozen=True)
class CanaryAssessment:
    """Result of a canary analysis.

    Attributes:
        verdict: CanaryVerdict; any but ``continue`` is final.
        reasons: Reasons for the verdict, or what is still open.
        pairs: Number of request pairs analyzed.
        evidence: MetricEvidence and number of pairs by metric.
    """

    verdict: CanaryVerdict
    reasons: tuple[str, ...]
    pairs: int
    evidence: Mapping[str, tuple[MetricEvidence, int]]


@dataclass
class _Analysis:
    """Gates of one canary with the position up to which they have read its streams."""

    live: CanaryGate
    quality: CanaryGate | None
    pair_cursor: str = FIRST
    score_cursor: str = FIRST
    probed: set[int] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CanaryAnalyzer:
    """Analyzes canaries; keeps the gates of recent ones, which can be rebuilt from Redis.

    Args:
        observations: Streams of pairs and probe scores.
        probe_client: Sends probes to both tracks.
    """

    def __init__(self, observations: CanaryObservations, probe_client: ProbeClient) -> None:
        self._observations, self._probe_client = observations, probe_client
        self._analyses: OrderedDict[tuple[str, AnalysisTerms, bool], _Analysis] = OrderedDict()

    async def analyze(
        self,
        canary_id: str,
        terms: AnalysisTerms,
        probes: Sequence[pb.CanaryProbe] = (),
        targets: tuple[ProbeTarget, ProbeTarget] | None = None,
    ) -> CanaryAssessment:
        """Read new observations and return the verdict.

        Args:
            canary_id: Id of the canary's observations.
            terms: Terms of the analysis; other terms begin a new analysis of the same pairs.
            probes: Probes of the quality, some of which are sent now; empty: quality is not
                analyzed.
            targets: Stable and canary track, for the probes.

        Raises:
            UnavailableError: Redis does not respond.
        """
        analysis = self._get_analysis(canary_id, terms, with_quality=bool(probes))
        # One reader per analysis: two would show the gates the same pairs twice.
        async with analysis.lock:
            await self._read_pairs(canary_id, analysis)
            if analysis.quality is not None:
                await self._read_scores(canary_id, analysis, analysis.quality)
                is_open = analysis.quality.verdicts[0] is CanaryVerdict.CONTINUE
                if targets is not None and is_open:
                    await self._send_probes(canary_id, analysis, probes, targets)
                    await self._read_scores(canary_id, analysis, analysis.quality)
            decision = _combine_decisions(analysis, len(probes))
        ANALYSES.labels(decision.verdict.value).inc()
        return decision

    def _get_analysis(
        self, canary_id: str, terms: AnalysisTerms, *, with_quality: bool
    ) -> _Analysis:
        key = (canary_id, terms, with_quality)
        if key not in self._analyses:
            self._analyses[key] = _Analysis(*build_gates(terms, with_quality=with_quality))
            while len(self._analyses) > _MAX_CANARIES:
                self._analyses.popitem(last=False)
        self._analyses.move_to_end(key)
        return self._analyses[key]

    async def _read_pairs(self, canary_id: str, analysis: _Analysis) -> None:
        while True:
            pairs, cursor = await self._observations.read_pairs(canary_id, analysis.pair_cursor)
            if cursor == analysis.pair_cursor:
                return
            # A final verdict stays: later pairs are skipped, not shown to the gate.
            if pairs and analysis.live.verdicts[0] is CanaryVerdict.CONTINUE:
                _observe_pairs(analysis.live, pairs)
            analysis.pair_cursor = cursor

    async def _read_scores(self, canary_id: str, analysis: _Analysis, quality: CanaryGate) -> None:
        while True:
            scores, cursor = await self._observations.read_scores(canary_id, analysis.score_cursor)
            if cursor == analysis.score_cursor:
                return
            # Two replicas may probe the same question; its first score counts.
            fresh: dict[int, ProbeScore] = {}
            for score in scores:
                if score.probe not in analysis.probed:
                    fresh.setdefault(score.probe, score)
            analysis.probed.update(fresh)
            if fresh:
                quality.observe(
                    {"quality": [score.canary for score in fresh.values()]},
                    {"quality": [score.stable for score in fresh.values()]},
                )
            analysis.score_cursor = cursor

    async def _send_probes(
        self,
        canary_id: str,
        analysis: _Analysis,
        probes: Sequence[pb.CanaryProbe],
        targets: tuple[ProbeTarget, ProbeTarget],
    ) -> None:
        """Send some probes that have no score yet to both tracks and append their scores."""
        missing = [index for index in range(len(probes)) if index not in analysis.probed]
        deadline = time.monotonic() + _PROBING_LIMIT_S
        for index in missing[:_MAX_PROBES]:
            if time.monotonic() > deadline:
                return
            probe = probes[index]
            stable, canary = await asyncio.gather(
                *(self._probe_client.answer(target, probe.prompt) for target in targets)
            )
            # Without stable's answer there is no pair; a canary without one scores 0, because a
            # missing answer is the canary's fault.
            if stable is None:
                return
            scores = [
                best_over_golds(f1, text or "", tuple(probe.answers)) for text in (stable, canary)
            ]
            await self._observations.append_score(canary_id, ProbeScore(index, *scores))


def build_gates(
    terms: AnalysisTerms, *, with_quality: bool
) -> tuple[CanaryGate, CanaryGate | None]:
    """Return the gates of live traffic and of the probes.

    Either gate may roll back, so they split ``alpha`` between them (union bound). Both must be
    passed for a promotion, so each may spend all of it there (intersection-union test).
    """
    live = CanaryGateSpec(
        metrics=(
            _rate_metric("errors", terms.error_margin),
            _rate_metric("violations", terms.violation_margin),
            _latency_metric(math.log(terms.latency_margin)),
        ),
        tripwires=(
            Tripwire("errors", terms.error_limit, TRIPWIRE_WINDOW, metric="errors"),
            Tripwire("violations", terms.violation_limit, TRIPWIRE_WINDOW, metric="violations"),
        ),
        max_items=terms.max_pairs,
        alpha=terms.alpha * (_LIVE_SHARE if with_quality else 1.0),
        alpha_promotion=terms.alpha,
    )
    if not with_quality:
        return CanaryGate(live), None
    margin = terms.quality_margin
    quality = CanaryGateSpec(
        metrics=(CanaryMetric("quality", required_gain=-margin, tolerated_loss=margin),),
        tripwires=(),
        max_items=terms.max_pairs,
        alpha=terms.alpha * (1 - _LIVE_SHARE),
        alpha_promotion=terms.alpha,
    )
    return CanaryGate(live), CanaryGate(quality)


def _rate_metric(name: str, margin: float) -> CanaryMetric:
    return CanaryMetric(name, better="lower", required_gain=-margin, tolerated_loss=margin)


def _latency_metric(log_margin: float) -> CanaryMetric:
    return CanaryMetric(
        "latency",
        better="lower",
        scale="log_ratio",
        bound=_MAX_LOG_RATIO,
        required_gain=-log_margin,
        tolerated_loss=log_margin,
    )


def _observe_pairs(gate: CanaryGate, pairs: Sequence[Pair]) -> None:
    """Show the gate request pairs; latencies count only where both tracks answered.

    A failed request ends early or at a timeout, so its latency says nothing about the model: such
    a pair has the neutral latency ratio 1.
    """
    stable: dict[str, list[float]] = {"errors": [], "violations": [], "latency": []}
    canary: dict[str, list[float]] = {"errors": [], "violations": [], "latency": []}
    for pair in pairs:
        sides = (pair.stable, pair.canary)
        both_answered = not any(outcome.failed or outcome.withheld for outcome in sides)
        for outcome, values in zip(sides, (stable, canary), strict=True):
            latency = max(_MIN_LATENCY_S, outcome.latency_s) if both_answered else 1.0
            values["errors"].append(float(outcome.failed))
            values["violations"].append(float(outcome.withheld))
            values["latency"].append(latency)
    events = {name: [value > 0 for value in canary[name]] for name in ("errors", "violations")}
    gate.observe(canary, stable, events)


def _combine_decisions(analysis: _Analysis, probes: int) -> CanaryAssessment:
    """Roll back if either gate does, promote if both do; the order of verdicts is by caution."""
    decisions = [analysis.live.decision()]
    if analysis.quality is not None:
        quality = analysis.quality.decision()
        # Probes are finite: when all are used and nothing is shown, waiting longer shows no more.
        if quality.verdict is CanaryVerdict.CONTINUE and len(analysis.probed) >= probes:
            reasons = (f"quality is not shown by {probes} probes", *quality.reasons)
            quality = CanaryDecision(
                CanaryVerdict.INCONCLUSIVE, quality.items, reasons, quality.evidence
            )
        decisions.append(quality)
    verdicts = [decision.verdict for decision in decisions]
    by_caution = (CanaryVerdict.ROLLBACK, CanaryVerdict.INCONCLUSIVE, CanaryVerdict.CONTINUE)
    verdict = next((one for one in by_caution if one in verdicts), CanaryVerdict.PROMOTE)
    why = [r for decision in decisions if decision.verdict is verdict for r in decision.reasons]
    evidence = {
        name: (metric, decision.items)
        for decision in decisions
        for name, metric in decision.evidence.items()
    }
    return CanaryAssessment(verdict, tuple(why), decisions[0].items, evidence)
