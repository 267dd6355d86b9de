"""Canaries: pairs read from their streams, probes asked of both sides, judged by the gate.

Everything that is known of a canary lies in its Redis streams, so a verdict is the same after a
restart: the pairs of requests under ``bem:canary:<id>``, the probes' scores beside them.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bem_fleet.scores.answer_match import best_over_golds, f1
from bem_fleet.services.validation.probing import Probe, Prober, Side
from bem_fleet.stats.canary_gate import (
    CanaryDecision,
    CanaryGate,
    CanaryGateSpec,
    CanaryMetric,
    CanaryVerdict,
    MetricEvidence,
)
from bem_fleet.stats.tripwires import Tripwire
from fleet.redis_pipe import RedisPipe
from prometheus_client import Counter

PREFIX = "bem:canary:"
WINDOW = 50
_REACH = math.log(4)
_PAGE = 1000
_KEPT = 256
# Probes of one look: at most so many, and none begun later than this; a look must end in time even
# where both sides are slow, and what was asked is kept.
_PROBES_A_LOOK, _PROBING_S = 8, 15.0
VERDICTS = Counter("bem_validation_canary_looks_total", "Looks at canaries.", ["verdict"])


@dataclass(frozen=True)
class Terms:
    """What a canary must show; margins are what it may be worse by.

    Attributes:
        alpha: Chance of a false rollback, and of a false promotion, over all looks.
        max_pairs: Pairs after which it is inconclusive.
        errors: Difference of error rates.
        violations: Difference of the rates of withheld answers.
        latency: Factor on the time of a request.
        quality: Difference of mean F1 on the probes.
        error_limit: Errors within the last 50 requests that end it at once, when the pairs show
            that it is the canary that has them.
        violation_limit: Withheld answers, the same.
    """

    alpha: float = 0.05
    max_pairs: int = 20_000
    errors: float = 0.02
    violations: float = 0.02
    latency: float = 1.25
    quality: float = 0.05
    error_limit: int = 10
    violation_limit: int = 10


@dataclass(frozen=True)
class Judgement:
    """The gate's answer.

    Attributes:
        verdict: Final unless ``continue``.
        reasons: What decided, or what is open.
        pairs: Pairs of requests.
        evidence: By metric, with the number of its pairs.
    """

    verdict: CanaryVerdict
    reasons: tuple[str, ...]
    pairs: int
    evidence: Mapping[str, tuple[MetricEvidence, int]]


@dataclass
class _Watched:
    terms: Terms
    live: CanaryGate
    quality: CanaryGate | None
    last_pair: str = "-"
    last_score: str = "-"
    asked: set[int] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Canaries:
    """The canaries that have been asked about.

    Args:
        redis_url: Where the streams are.
        prober: Asks the probes.
    """

    def __init__(self, redis_url: str, prober: Prober) -> None:
        self._pipe = RedisPipe(redis_url, 2.0, "canary streams")
        self._prober = prober
        self._watched: OrderedDict[tuple[str, Terms, bool], _Watched] = OrderedDict()

    async def judge(
        self,
        canary_id: str,
        terms: Terms,
        probes: Sequence[Probe] = (),
        sides: tuple[Side, Side] | None = None,
    ) -> Judgement:
        """Take in what is new and judge.

        Args:
            canary_id: Name of the streams.
            terms: What must be shown; others begin anew on the same pairs.
            probes: Questions, a few of which are asked now; empty: quality is not judged.
            sides: Stable and canary, for the probes.

        Raises:
            UnavailableError: Redis does not answer.
        """
        watched = self._of(canary_id, terms, with_quality=bool(probes))
        async with watched.lock:
            await self._read_pairs(canary_id, watched)
            if watched.quality is not None:
                await self._read_scores(canary_id, watched)
                if sides is not None and watched.quality.verdicts[0] is CanaryVerdict.CONTINUE:
                    await self._probe(canary_id, watched, probes, sides)
                    await self._read_scores(canary_id, watched)
            found = _joined(watched, len(probes))
        VERDICTS.labels(found.verdict.value).inc()
        return found

    async def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    def _of(self, canary_id: str, terms: Terms, *, with_quality: bool) -> _Watched:
        key = (canary_id, terms, with_quality)
        if key not in self._watched:
            live, quality = gates(terms, with_quality=with_quality)
            self._watched[key] = _Watched(terms, live, quality)
            while len(self._watched) > _KEPT:
                self._watched.popitem(last=False)
        self._watched.move_to_end(key)
        return self._watched[key]

    async def _page(self, stream: str, after: str) -> list[tuple[str, dict[str, str]]]:
        begin = after if after == "-" else f"({after}"
        entries = await self._pipe.call("XRANGE", stream, begin, "+", "COUNT", _PAGE)
        return [(key.decode(), _decoded(fields)) for key, fields in entries]

    async def _read_pairs(self, canary_id: str, watched: _Watched) -> None:
        while page := await self._page(f"{PREFIX}{canary_id}", watched.last_pair):
            if watched.live.verdicts[0] is CanaryVerdict.CONTINUE:
                _observe(watched.live, [fields for _, fields in page])
            watched.last_pair = page[-1][0]

    async def _read_scores(self, canary_id: str, watched: _Watched) -> None:
        while page := await self._page(f"{PREFIX}{canary_id}:scores", watched.last_score):
            fresh = [f for _, f in page if int(f["item"]) not in watched.asked]
            watched.asked.update(int(fields["item"]) for fields in fresh)
            if fresh and watched.quality is not None:
                watched.quality.observe(
                    {"quality": [float(f["c"]) for f in fresh]},
                    {"quality": [float(f["s"]) for f in fresh]},
                )
            watched.last_score = page[-1][0]

    async def _probe(
        self,
        canary_id: str,
        watched: _Watched,
        probes: Sequence[Probe],
        sides: tuple[Side, Side],
    ) -> None:
        """Ask a few probes that have not been asked; both sides answer the same question."""
        due = [index for index in range(len(probes)) if index not in watched.asked]
        limit = time.monotonic() + _PROBING_S
        for index in due[:_PROBES_A_LOOK]:
            if time.monotonic() > limit:
                return
            probe = probes[index]
            stable, canary = await asyncio.gather(
                *(self._prober.answer(side, probe.prompt) for side in sides)
            )
            if stable is None:
                return  # nothing to compare with; asked again at the next look
            scores = [best_over_golds(f1, text or "", probe.answers) for text in (stable, canary)]
            await self._pipe.call(
                "XADD",
                f"{PREFIX}{canary_id}:scores",
                "*",
                *("item", str(index), "s", repr(scores[0]), "c", repr(scores[1])),
            )


def gates(terms: Terms, *, with_quality: bool) -> tuple[CanaryGate, CanaryGate | None]:
    """Return the gates of live traffic and of the probes.

    They share the rollback's alpha; promotion needs both, each at ``alpha`` (intersection-union).
    """
    live_alpha = terms.alpha * (0.75 if with_quality else 1.0)

    def guard(name: str, margin: float) -> CanaryMetric:
        return CanaryMetric(name, better="lower", required_gain=-margin, tolerated_loss=margin)

    factor = math.log(terms.latency)
    live = CanaryGateSpec(
        metrics=(
            guard("errors", terms.errors),
            guard("violations", terms.violations),
            CanaryMetric(
                "latency",
                better="lower",
                scale="log_ratio",
                bound=_REACH,
                required_gain=-factor,
                tolerated_loss=factor,
            ),
        ),
        tripwires=(
            Tripwire("errors", terms.error_limit, WINDOW, metric="errors"),
            Tripwire("violations", terms.violation_limit, WINDOW, metric="violations"),
        ),
        max_items=terms.max_pairs,
        alpha=live_alpha,
        alpha_promotion=terms.alpha,
    )
    if not with_quality:
        return CanaryGate(live), None
    quality = CanaryGateSpec(
        metrics=(
            CanaryMetric("quality", required_gain=-terms.quality, tolerated_loss=terms.quality),
        ),
        tripwires=(),
        max_items=terms.max_pairs,
        alpha=terms.alpha * 0.25,
        alpha_promotion=terms.alpha,
    )
    return CanaryGate(live), CanaryGate(quality)


def _observe(gate: CanaryGate, rows: Sequence[Mapping[str, str]]) -> None:
    """Show the gate pairs of requests; a time is compared only where both sides answered."""
    stable: dict[str, list[float]] = {"errors": [], "violations": [], "latency": []}
    canary: dict[str, list[float]] = {"errors": [], "violations": [], "latency": []}
    for row in rows:
        answered = row["se"] == row["ce"] == row["sv"] == row["cv"] == "0"
        for side, key in ((stable, "s"), (canary, "c")):
            side["errors"].append(float(row[f"{key}e"]))
            side["violations"].append(float(row[f"{key}v"]))
            side["latency"].append(max(1e-6, float(row[f"{key}l"])) if answered else 1.0)
    events = {name: [value > 0 for value in canary[name]] for name in ("errors", "violations")}
    gate.observe(canary, stable, events)


def _joined(watched: _Watched, probes: int) -> Judgement:
    """Roll back by either gate, promote by both."""
    decisions = [watched.live.decision()]
    if watched.quality is not None:
        quality = watched.quality.decision()
        if quality.verdict is CanaryVerdict.CONTINUE and len(watched.asked) >= probes:
            words = (f"quality is not shown by {probes} probes", *quality.reasons)
            quality = CanaryDecision(
                CanaryVerdict.INCONCLUSIVE, quality.items, words, quality.evidence
            )
        decisions.append(quality)
    verdicts = [decision.verdict for decision in decisions]
    verdict = next(
        (
            one
            for one in (CanaryVerdict.ROLLBACK, CanaryVerdict.INCONCLUSIVE, CanaryVerdict.CONTINUE)
            if one in verdicts
        ),
        CanaryVerdict.PROMOTE,
    )
    reasons = [r for d in decisions if d.verdict is verdict for r in d.reasons]
    evidence = {
        name: (one, decision.items)
        for decision in decisions
        for name, one in decision.evidence.items()
    }
    return Judgement(verdict, tuple(reasons), decisions[0].items, evidence)


def _decoded(fields: Sequence[bytes]) -> dict[str, str]:
    flat = [part.decode() for part in fields]
    return dict(zip(flat[::2], flat[1::2], strict=True))
