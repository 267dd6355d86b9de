"""Canary analysis: sequential gates over request pairs and probes of both tracks.

All observations of a canary lie in Redis, and the gates are deterministic functions of them in
order, so the verdict is the same after a restart, bit for bit. A gate's final decision is stored
beside them and outlives the pairs; an analysis that is made anew and no longer finds the first pair
that it had read ends as inconclusive instead of deciding by the rest.

Example: terms with ``error_margin``, ``violation_margin``, ``p95_margin`` and ``p99_margin`` 0.15,
``latency_margin`` 1.5, ``min_answered`` 0.9 and ``alpha`` 0.05, without probes. The gate compares
each pair: errors and violations (0 or 1 on each track; the canary may be worse by 15 percentage
points), the log ratio of latencies (the canary may be slower by a factor of 1.5), and how many of
its requests are slow by the measure of stable's p95 and p99. It also looks at the canary alone, of
whose requests 90 % must be answered.

- After 5 pairs without incident nothing is shown: ``continue``.
- After 60 such pairs each e-process exceeds 1 / 0.05, so it is shown that each metric is worse by
  less than its margin, and that more than 90 % are answered: ``promote``.
- If the canary fails all requests instead, five errors within the last 100 requests hit the
  tripwire, and the pairs show that stable has none: ``rollback`` after about 40 pairs.
- If both fail all requests, no pair says anything about equality, and no request is answered:
  ``continue``, and ``inconclusive`` after ``max_pairs``.

The verdict is valid at every look: the e-processes bound the probability of ever promoting a bad
canary, or of ever rolling back a good one, by ``alpha``, however often the analysis is requested.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bem_fleet.scores.answer_match import best_over_golds, f1
from bem_fleet.services.validation.canary_decisions import StoredDecisions
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
    CanaryVerdict,
    MetricEvidence,
)
from bem_fleet.stats.canary_terms import AnalysisTerms, gate_specs
from bemfleet.canary.v1 import canary_pb2
from bemfleet.validation.v1 import validation_pb2 as pb
from prometheus_client import Counter

_MIN_LATENCY_S = 1e-6
_MAX_CANARIES = 256
# Limits of one analysis: it must respond in time even if both tracks are slow. Scores that were
# taken are kept, so the next analysis continues.
_MAX_PROBES, _PROBING_LIMIT_S = 8, 15.0
_RATES, _LATENCIES = ("errors", "violations"), ("latency", "latency p95", "latency p99")
_LIVE, _QUALITY = "live", "quality"
_LOST_PAIRS = "the first pairs are gone from the stream; start the canary with another attempt"
ANALYSES = Counter(
    "bem_validation_canary_analyses_total", "Canary analyses, by verdict.", ["verdict"]
)


@dataclass(frozen=True)
class CanaryAssessment:
    """Result of a canary analysis.

    Attributes:
        verdict: CanaryVerdict; any but ``continue`` is final.
        reasons: Reasons for the verdict, or what is still open.
        pairs: Number of request pairs analyzed.
        evidence: MetricEvidence by metric.
    """

    verdict: CanaryVerdict
    reasons: tuple[str, ...]
    pairs: int
    evidence: Mapping[str, MetricEvidence]


@dataclass
class _Analysis:
    """Gates of one canary with the position up to which they have read its streams."""

    live: CanaryGate
    quality: CanaryGate | None
    pair_cursor: str = FIRST
    score_cursor: str = FIRST
    probed: set[int] = field(default_factory=set)
    # Final decisions by gate; None before they were looked for in Redis.
    decided: dict[str, CanaryDecision] | None = None
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
        stored = StoredDecisions(self._observations, canary_id, terms, with_quality=bool(probes))
        # One reader per analysis: two would show the gates the same pairs twice.
        async with analysis.lock:
            if analysis.decided is None:
                analysis.decided = await self._restore(canary_id, stored)
            if _LIVE not in analysis.decided:
                await self._read_pairs(canary_id, analysis)
                await _keep_final(analysis.decided, _LIVE, analysis.live, stored)
            if analysis.quality is not None:
                await self._analyze_quality(canary_id, analysis, probes, targets)
                await _keep_final(analysis.decided, _QUALITY, analysis.quality, stored)
            decision = _combine_decisions(analysis, len(probes))
        ANALYSES.labels(decision.verdict.value).inc()
        return decision

    def _get_analysis(
        self, canary_id: str, terms: AnalysisTerms, *, with_quality: bool
    ) -> _Analysis:
        key = (canary_id, terms, with_quality)
        if key not in self._analyses:
            live, quality = gate_specs(terms, with_quality=with_quality)
            self._analyses[key] = _Analysis(
                CanaryGate(live), None if quality is None else CanaryGate(quality)
            )
            while len(self._analyses) > _MAX_CANARIES:
                self._analyses.popitem(last=False)
        self._analyses.move_to_end(key)
        return self._analyses[key]

    async def _restore(self, canary_id: str, stored: StoredDecisions) -> dict[str, CanaryDecision]:
        """Return the decisions of an earlier process; inconclusive if its pairs are gone."""
        decided = await stored.read((_LIVE, _QUALITY))
        if _LIVE not in decided and not await self._observations.has_first_pair(canary_id):
            verdict = CanaryVerdict.INCONCLUSIVE
            decided[_LIVE] = CanaryDecision(verdict, 0, (_LOST_PAIRS,), {})
        return decided

    async def _read_pairs(self, canary_id: str, analysis: _Analysis) -> None:
        while analysis.live.verdicts[0] is CanaryVerdict.CONTINUE:
            pairs, cursor = await self._observations.read_pairs(canary_id, analysis.pair_cursor)
            if cursor == analysis.pair_cursor:
                return
            if pairs:
                # A page of pairs computes for a part of a second; other calls go on meanwhile.
                await asyncio.to_thread(_observe_pairs, analysis.live, pairs)
            analysis.pair_cursor = cursor

    async def _analyze_quality(
        self,
        canary_id: str,
        analysis: _Analysis,
        probes: Sequence[pb.CanaryProbe],
        targets: tuple[ProbeTarget, ProbeTarget] | None,
    ) -> None:
        quality = analysis.quality
        if quality is None or _QUALITY in (analysis.decided or {}):
            return
        await self._read_scores(canary_id, analysis, quality)
        if targets is not None and quality.verdicts[0] is CanaryVerdict.CONTINUE:
            await self._send_probes(canary_id, analysis, probes, targets)
            await self._read_scores(canary_id, analysis, quality)

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
        order = probe_order(canary_id, len(probes))
        missing = [index for index in order if index not in analysis.probed]
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


def probe_order(canary_id: str, probes: int) -> list[int]:
    """Return the order in which a canary's probes are sent, drawn by the canary's id.

    People list probes by topic. In the order of the list the first topics would decide, and
    neighbouring scores would be alike; in random order each is a draw from all of them, and every
    replica and restart draws the same order.
    """
    return random.Random(canary_id).sample(range(probes), probes)  # noqa: S311 - no secret


async def _keep_final(
    decided: dict[str, CanaryDecision], name: str, gate: CanaryGate, stored: StoredDecisions
) -> None:
    """Store a gate's decision once it is final."""
    if name not in decided and gate.verdicts[0] is not CanaryVerdict.CONTINUE:
        decision = gate.decision()
        await stored.write(name, decision)
        decided[name] = decision


def _answered(outcome: canary_pb2.Outcome) -> bool:
    """Return whether the client got an answer; one that was cut off at a limit is an answer."""
    return not (outcome.failed or outcome.withheld or outcome.empty)


def _observe_pairs(gate: CanaryGate, pairs: Sequence[Pair]) -> None:
    """Show the gate request pairs, each as evidence of what it can speak of.

    A pair that neither track answered says nothing about their equality. A failed request ends
    early or at a timeout, and a withheld one before its text, so latencies are compared where both
    tracks answered.
    """
    stable, canary = [pair.stable for pair in pairs], [pair.canary for pair in pairs]
    answers = [(_answered(pair.stable), _answered(pair.canary)) for pair in pairs]
    neither = [not any(sides) for sides in answers]
    one_alone = [not all(sides) for sides in answers]
    values = _values(canary, stable)
    gate.observe(
        {**values, "answered": [float(by_canary) for _, by_canary in answers]},
        _values(stable, canary),
        {name: [value > 0 for value in values[name]] for name in _RATES},
        {**dict.fromkeys(_RATES, neither), **dict.fromkeys(_LATENCIES, one_alone)},
    )


def _is_error(one: canary_pb2.Outcome, other: canary_pb2.Outcome) -> bool:
    """Return whether a track's outcome is an error, beside the other track's outcome.

    A failed or empty answer is. A truncated one is where the other track answered in full: a canary
    that talks on to the limit is worse. Clients also ask for few tokens, which cuts off both tracks
    and is nobody's error; counted as one it would hide a canary that fails where stable is cut off.
    """
    if one.failed or one.empty:
        return True
    return one.truncated and _answered(other) and not other.truncated


def _values(
    outcomes: Sequence[canary_pb2.Outcome], others: Sequence[canary_pb2.Outcome]
) -> dict[str, list[float]]:
    """Return the values of one track by metric."""
    return {
        "errors": [float(_is_error(*pair)) for pair in zip(outcomes, others, strict=True)],
        "violations": [float(one.withheld) for one in outcomes],
        "latency": [max(_MIN_LATENCY_S, one.latency_s) for one in outcomes],
    }


def _combine_decisions(analysis: _Analysis, probes: int) -> CanaryAssessment:
    """Roll back if either gate does, promote if both do; the order of verdicts is by caution."""
    decided = analysis.decided or {}
    decisions = [decided.get(_LIVE) or analysis.live.decision()]
    if analysis.quality is not None:
        quality = decided.get(_QUALITY) or analysis.quality.decision()
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
        name: metric for decision in decisions for name, metric in decision.evidence.items()
    }
    return CanaryAssessment(verdict, tuple(why), decisions[0].items, evidence)
